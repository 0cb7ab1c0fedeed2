"""The report is a pure function of the replay, shows what it was given as text, and says when it cannot tell."""

import json
import math
import re
from collections import Counter
from dataclasses import replace
from html import escape

import pytest

from slmflow.monitoring.call import Call
from slmflow.monitoring.dataset import lines_of
from slmflow.monitoring.replay import Replay, as_json, change_of_model, conclusion
from slmflow.monitoring.report import html, markdown
from slmflow.monitoring.traces import Row, Traces
from tests.serving import browser as browsing

browser = browsing.browser

MACHINE = {"cpu": "a <cpu>", "cores": "2", "threads": "2", "system": "Linux"}


def call(text, tokens=50, refusal=False):
    return Call(text, 10, tokens, 0.5, False, False, refusal)


def made(count, production, champion, challenger=None, redacted=()):
    rows = [
        Row(
            f"tr-{at}",
            at * 1000,
            "m-1",
            {"prompt": f"<script>{at}|"},
            production(at),
            {"EMAIL": 1} if at in redacted else {},
        )
        for at in range(count)
    ]
    roles = {"champion": champion} | ({"challenger": challenger} if challenger else {})
    answers = {role: {row.id: say(at) for at, row in enumerate(rows)} for role, say in roles.items()}
    traces = Traces(rows, count + 2, Counter({"not finished": 2}))
    return Replay("Default", traces, {role: f"{role} 1" for role in roles}, answers, ["A <note>."], MACHINE)


def same(at):
    return call(f"<b>{at}")


def test_nothing_drifts_where_everybody_says_the_same():
    replay = made(60, same, same, same)
    said = conclusion(replay.comparisons())
    assert (
        said
        == "Production did not drift over time; the champion answers as production did; the challenger as the champion."
    )


def test_each_drift_is_named_with_its_numbers():
    replay = made(100, lambda at: call("a", refusal=at >= 70), same, lambda at: call("a", tokens=20))
    said = conclusion(replay.comparisons())
    assert "production drifted over time in refusals (0.0 % → 60.0 %)" in said[0].lower() + said[1:]
    assert "the champion differs from production in refusals (30.0 % → 0.0 %)" in said
    assert "the challenger differs from the champion in answer tokens (median 50 → 20)" in said


def test_what_moved_is_shown_by_the_figure_that_moved_and_not_by_one_that_stood():
    """Half of the answers are ten times as short: the median is that of the other half."""
    replay = made(101, same, same, lambda at: call("a", tokens=5 if at < 50 else 50))
    said = conclusion(replay.comparisons())
    assert "the challenger differs from the champion in answer tokens (mean 50 → 27.7)" in said
    assert "| answer tokens, mean | drifted | 50 | 27.7 | -44.6 % |" in markdown(replay)


def test_models_that_took_turns_in_production_are_named_with_their_halves():
    replay = made(60, same, same)
    assert change_of_model(replay) == ""
    rows = [replace(row, model_id="m-2") if at >= 30 else row for at, row in enumerate(replay.rows)]
    other = replace(replay, traces=replace(replay.traces, rows=rows))
    said = "Other models answered in production's older half, m-1 (30), than in its newer, m-2 (30)."
    assert change_of_model(other) == said
    assert said in markdown(other)
    assert escape(said, quote=True) in html(other)


def test_few_calls_are_said_to_be_too_few():
    replay = made(3, same, same)
    assert conclusion(replay.comparisons()) == (
        "Newer against older: too few calls to test (each needs 20); "
        "champion against production: too few calls to test (each needs 20)."
    )
    assert "Too few calls to test." in markdown(replay)
    assert html(made(1, same, same))


def test_requests_that_were_redacted_do_not_count_against_the_champion():
    replay = made(60, same, lambda at: call("x", tokens=5) if at < 30 else same(at), redacted=range(30))
    assert conclusion(replay.comparisons()).endswith("the champion answers as production did.")
    assert replay.comparisons()[1].identical == 1.0


@pytest.mark.parametrize("count", [1, 50])
def test_the_page_is_one_file_and_shows_markup_as_text(count):
    replay = made(count, same, same, lambda at: call("<i>other"))
    page = html(replay)
    assert page == html(replay)
    assert "<script" not in page
    assert not re.findall(r"(?:src|href)=[\"']?(?!/#/)", page)
    for shown in ("&lt;script&gt;0", "&lt;i&gt;other", "a &lt;cpu&gt;", "A &lt;note&gt;.", "2 not finished"):
        assert shown in page


def test_the_json_holds_every_test_and_what_was_left_out():
    report = as_json(made(60, same, same, same, redacted={3}))
    assert report["skipped"] == {"not finished": 2}
    assert report["redacted"] == {"EMAIL": 1}
    assert [one["name"] for one in report["comparisons"]] == ["over time", "champion now", "challenger"]
    assert all(test["p_holm"] == 1 for one in report["comparisons"] for test in one["tests"])


def test_what_is_no_number_in_a_request_is_null_in_the_dataset():
    (row,) = made(1, same, same).rows
    broken = replace(row, request={"prompt": "x", "temperature": math.nan, "stop": [math.inf, "a"]})
    told = json.loads(lines_of([broken]), parse_constant=lambda name: pytest.fail(name))
    assert told["request"] == {"prompt": "x", "temperature": None, "stop": [None, "a"]}


def test_on_a_printed_page_the_answers_are_open_and_no_table_is_cut(browser, tmp_path):
    page_file = tmp_path / "replay.html"
    page_file.write_text(html(made(60, same, same, lambda at: call("other " * 30))))
    with browsing.open_page(browser, f"file://{page_file}", viewport={"width": 1047, "height": 718}) as page:
        assert page.locator(".said td").first.bounding_box()["height"] == 0
        page.emulate_media(media="print")
        assert page.locator(".said td").first.bounding_box()["height"] > 0
        for table in page.locator("table").all():
            box = table.bounding_box()
            assert box["x"] + box["width"] <= 1047
