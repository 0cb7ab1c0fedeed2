"""A comparison is a pure function: who is best among comparable ones, the front, the flips, one sentence."""

import csv
import html.parser
import io
import itertools
import json
import random
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmflow.comparison.entry import Entry, make_entries
from slmflow.comparison.files import write_comparison
from slmflow.comparison.flips import flips_of
from slmflow.comparison.groups import letter
from slmflow.comparison.pareto import Point, front_of, points_of
from slmflow.comparison.picture import LONGEST, NARROW, WIDTH, shortened, svg
from slmflow.comparison.recommendation import recommend
from slmflow.comparison.table import make_table
from slmflow.compose import compose
from tests.comparison.made import MACHINE, evaluation, found, items

GATE = compose().config.gate


def three(**more):
    return make_entries(
        found(
            evaluation(kl=0.0, top1=1.0, size=500e6, speed=25.0, **more),
            evaluation("int8_cpu", kl=0.004, top1=0.96, size=150e6, speed=170.0),
            evaluation("int4_cpu", kl=0.3, top1=0.7, size=90e6, speed=230.0),
        )
    )


def cells(table, title):
    at = [column.title for column in table.columns].index(title)
    return {entry.label: row[at] for entry, row in zip(table.entries, table.rows, strict=True)}


def test_the_best_of_each_column_is_marked_and_others_are_held_against_the_pipeline():
    table = make_table(three())
    assert [entry.label for entry in table.entries] == ["pipeline float32", "int8_cpu", "int4_cpu"]
    assert table.baseline.is_pipeline
    assert {label for label, cell in cells(table, "KL").items() if cell.best} == {"pipeline float32"}
    assert {label for label, cell in cells(table, "tokens/s").items() if cell.best} == {"int4_cpu"}
    assert cells(table, "tokens/s")["int8_cpu"].difference == "6.80 ×"
    assert cells(table, "tasks")["int8_cpu"].difference == "+0.00 ± 0.04"
    assert not any(cell.best for cell in cells(table, "PPL ratio").values())
    assert table.notes == []


def test_what_nobody_measured_has_no_column_and_what_one_did_not_says_so():
    other = evaluation("int4_cpu")
    other["fidelity"] = None
    table = make_table(make_entries(found(evaluation("int8_cpu"), other)))
    assert "load s" not in [column.title for column in table.columns]
    assert cells(table, "KL")["int4_cpu"].text == "not measured"
    assert points_of(table.entries) != []


def test_speeds_of_two_machines_are_marked_and_none_is_the_best_across_them():
    elsewhere = evaluation("int4_cpu", speed=900.0, machine={**MACHINE, "cpu": "two"})
    entries = make_entries(found(evaluation(speed=20.0), evaluation("int8_cpu", speed=50.0), elsewhere))
    table = make_table(entries)
    speeds = cells(table, "tokens/s")
    assert {cell.group for cell in speeds.values()} == {"A", "B"}
    assert [label for label, cell in speeds.items() if cell.best] == ["int8_cpu"]
    assert speeds["int4_cpu"].difference == ""
    assert cells(table, "MB")["int4_cpu"].group == ""
    (note,) = table.notes
    assert "two, 2 cores" in note
    assert {point.entry.label for point in points_of(entries)} == {"pipeline float32", "int8_cpu"}


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"source_digest": "e"}, "Fidelity"),
        ({"fidelity": {"tokens": 96.0, "kl_mean": 0.0, "perplexity_reference": 9.0}}, "Fidelity"),
        ({"tasks": {"digest": "u", "score": 0.9, "score_se": 0.01}}, "Tasks"),
    ],
)
def test_other_weights_texts_and_items_are_not_comparable_and_the_page_says_so(more, part):
    table = make_table(
        make_entries(found(evaluation(), evaluation("int8_cpu"), evaluation("int4_cpu", **more)))
    )
    assert [note.split()[0] for note in table.notes] == [part]
    cell = cells(table, "KL" if part == "Fidelity" else "tasks")["int4_cpu"]
    assert not cell.best
    assert cell.group == "B"


def points(values):
    made = found(*(evaluation(f"e{at}") for at in range(len(values))))
    return [Point(entry, *value) for entry, value in zip(make_entries(made), values, strict=True)]


@given(st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 3), max_size=8), st.randoms())
def test_the_front_is_what_nothing_dominates_in_any_order(values, chance):
    made = points(values)
    front = front_of(made)
    for point in made:
        beaten = any(
            other.size <= point.size
            and other.kl <= point.kl
            and other.speed >= point.speed
            and (other.size, other.kl, other.speed) != (point.size, point.kl, point.speed)
            for other in made
        )
        assert (point in front) is not beaten
    shuffled = random.Random(chance.random()).sample(made, len(made))
    assert set(map(id, front_of(shuffled))) == set(map(id, front))
    assert bool(front) == bool(made)


def test_the_recommendation_is_the_fastest_that_passes_and_the_smaller_of_nearly_equal_ones():
    def chosen(*evaluations):
        entry, sentence = recommend(make_entries(found(evaluation(kl=0.0), *evaluations)), GATE)
        return entry.label if entry else sentence

    assert chosen(evaluation("fast_but_bad", kl=0.5, top1=0.5, speed=900.0), evaluation("good")) == "good"
    assert chosen(evaluation("a", size=9e7, speed=96.0), evaluation("b", size=2e8, speed=100.0)) == "a"
    assert chosen(evaluation("a", size=9e7, speed=90.0), evaluation("b", size=2e8, speed=100.0)) == "b"
    assert chosen(evaluation("bad", kl=0.5)).startswith("Ship none of these")
    assert recommend([], GATE)[0] is None


def said(*evaluations, gate=GATE):
    return recommend(make_entries(found(*evaluations)), gate)[1]


def test_the_gates_own_judgement_decides_and_who_is_left_out_is_named_with_the_reason():
    lame = compose(overrides="gate.min_decode_tokens_per_second=60").config.gate
    words = said(evaluation("slow", speed=50.0), evaluation("quick", speed=70.0), gate=lame)
    assert words.startswith("Ship quick: 70 tokens/s")
    assert "slow (decode_tokens_per_second 50 (must be >= 60))" in words
    unmeasured = {**evaluation("blind", speed=900.0), "fidelity": None}
    words = said(unmeasured, evaluation("quick"))
    assert words.startswith("Ship quick")
    assert "blind (kl_mean, top1_agreement not measured)" in words


def test_who_was_measured_on_another_machine_is_considered_but_not_by_speed():
    two = {**MACHINE, "cpu": "two"}
    words = said(evaluation("bad", kl=0.9), evaluation("there", speed=9.0, machine=two))
    assert words.startswith("Ship there"), "alone in passing, though not of the larger group"
    words = said(evaluation("a"), evaluation("b", speed=40.0), evaluation("there", speed=900.0, machine=two))
    assert words.startswith("Ship a")
    assert "there (passes, but its speed is another machine's)" in words


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_figure_that_is_no_number_is_left_out_of_best_front_and_picture_and_is_told(tmp_path, number):
    broken = evaluation("broken", kl=number, speed=number, size=1e6)
    zero = evaluation("zero", speed=0.0, size=0.0)
    entries = make_entries(found(evaluation(size=3e8), evaluation("good", size=2e8), broken, zero))
    assert {point.entry.label for point in points_of(entries)} == {"pipeline float32", "good"}
    table = make_table(entries)
    assert not cells(table, "KL")["broken"].best
    assert cells(table, "tokens/s")["broken"].text == str(number)
    assert write(tmp_path / "c", entries).startswith("Ship good")
    written = {path.suffix: path for path in (tmp_path / "c").iterdir()}

    def refuse(name):
        raise ValueError(name)

    told = json.loads(written[".json"].read_text(), parse_constant=refuse)
    (its,) = [one for one in told["candidates"] if one["label"] == "broken"]
    assert its["figures"]["fidelity.kl_mean"]["value"] is None
    assert f">{number}</td>" in written[".html"].read_text()
    assert "nan" not in svg(points_of(entries), [])
    assert str(number) in written[".csv"].read_text()


def test_files_for_programs_and_to_paste_say_who_may_be_compared_with_whom(tmp_path):
    elsewhere = evaluation("int4_cpu", speed=900.0, machine={**MACHINE, "threads": "4"})
    write(tmp_path / "c", make_entries(found(evaluation(speed=20.0), evaluation("int8_cpu"), elsewhere)))
    told = json.loads((tmp_path / "c" / "comparison.json").read_text())["candidates"]
    groups = {one["label"]: one["figures"]["cost.decode_tokens_per_second"]["group"] for one in told}
    assert groups == {"pipeline float32": "A", "int8_cpu": "A", "int4_cpu": "B"}
    assert told[0]["figures"]["fidelity.kl_mean"]["group"] is None
    assert "900.0 (B)" in (tmp_path / "c" / "comparison.md").read_text()


def test_thirty_machines_have_thirty_letters():
    assert [letter(at) for at in (0, 25, 26, 27, 51, 52, 701, 702)] == [
        *("A", "Z", "AA", "AB", "AZ", "BA", "ZZ", "AAA")
    ]
    made = [evaluation(f"e{at}", machine={**MACHINE, "cpu": str(at)}) for at in range(30)]
    table = make_table(make_entries(found(*made)))
    assert len({cell.group for cell in cells(table, "tokens/s").values()}) == 30


def test_the_last_digit_of_a_perplexity_makes_no_other_text_and_another_digest_does():
    def of(export, **words):
        made = evaluation(export)
        made["fidelity"] |= words
        return made

    near = make_table(make_entries(found(of("a"), of("b", perplexity_reference=17.000000000000004))))
    assert near.notes == []
    far = make_table(make_entries(found(of("a", windows_digest="x"), of("b", windows_digest="y"))))
    assert far.notes[0].startswith("Fidelity was measured against 2 references")


def test_a_label_says_what_was_swept_and_nothing_that_all_have():
    made = found(evaluation(), evaluation("int4_cpu"), evaluation("int4_cpu"))
    common = "gate.mode=warn evaluate.windows=2"
    words = {
        made[0][0]: f"{common} export.block_size=16",
        made[1][0]: f"{common} export.block_size=16 driver.parallel=1",
        made[2][0]: f"{common} +export.block_size=32 export.accuracy_level=4",
    }
    labels = [entry.label for entry in make_entries(made, words)]
    assert sorted(labels) == [
        "int4_cpu block_size=16",
        "int4_cpu block_size=32 accuracy_level=4",
        "pipeline float32",
    ]


@pytest.mark.parametrize("width", [WIDTH, NARROW])
def test_labels_in_the_picture_stay_within_it_and_apart(width):
    long = [f"{at}_a_variant_with_quite_a_long_name_and_overrides=16" for at in range(6)]
    entries = make_entries(found(*(evaluation(name, size=1e8 + at) for at, name in enumerate(long))))
    drawn = ElementTree.fromstring(svg(points_of(entries), [], width))
    shown = [one for one in drawn.iter("text") if one.get("class") in ("front", "behind")]
    assert len({one.get("y") for one in shown}) == 6
    for one in shown:
        at, wide = float(one.get("x")), 6.6 * len(one.text)
        left = at - wide if one.get("text-anchor") == "end" else at
        assert 0 <= left < left + wide <= width
        assert 0 < float(one.get("y")) < 380
    assert len(shortened(long[0])) == LONGEST


def test_flips_name_the_items_and_who_parts_from_the_baseline_either_way():
    tables = [items(True, False, True), items(False, True, True), items(True, True, True, answer="other")]
    entries = make_entries(
        found(evaluation(size=3e8), evaluation("a", size=2e8), evaluation("b"), items=tables)
    )
    first, second = flips_of(entries, entries[0])
    assert (first.id, first.gained, first.lost) == ("item-0", [], ["a"])
    assert (second.id, second.gained, second.lost) == ("item-1", ["a", "b"], [])


def test_two_of_one_variant_are_told_apart_by_their_runs_and_models_by_their_names():
    labels = [entry.label for entry in make_entries(found(evaluation("a"), evaluation("a")))]
    assert labels == ["a a0000000", "a b0000000"]
    other = evaluation("a", name="big")
    labels = {entry.label for entry in make_entries(found(evaluation("a"), other))}
    assert labels == {"tiny a", "big a"}


class Tags(html.parser.HTMLParser):
    """Which tags a page has, that they are closed, and every address in it."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.links = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "link", "br", "circle", "path", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def write(folder, entries):
    folder.mkdir()
    return write_comparison(entries, GATE, "tiny", folder)


def test_the_files_are_the_same_bytes_for_the_same_evaluations_in_any_order(tmp_path):
    made = found(
        evaluation(),
        evaluation("a", size=2e8),
        evaluation("b"),
        items=[items(True), items(False), items(True)],
    )
    texts = []
    for number, order in enumerate(itertools.permutations(made)):
        write(tmp_path / str(number), make_entries(list(order)))
        texts.append({path.name: path.read_bytes() for path in (tmp_path / str(number)).iterdir()})
    assert set(texts[0]) == {f"comparison.{kind}" for kind in ("html", "json", "csv", "md", "png")}
    assert all(text == texts[0] for text in texts)


def test_hostile_names_stay_text_and_the_page_needs_nothing_else(tmp_path):
    bad = "<script>alert(1)</script>\"'|`,\n"
    hostile = make_entries(
        found(
            evaluation(name=bad),
            evaluation(bad, machine={**MACHINE, "cpu": bad}, tasks={"digest": bad, "score": 0.1}),
            items=[items(True, answer=bad), items(False, answer=bad)],
        )
    )
    write(tmp_path / "c", hostile)
    page = Tags((tmp_path / "c" / "comparison.html").read_text())
    assert page.seen.count("script") == 1
    assert all(link.startswith("/#/experiments/") for link in page.links)
    rows = list(csv.reader(io.StringIO((tmp_path / "c" / "comparison.csv").read_text())))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert json.loads((tmp_path / "c" / "comparison.json").read_text())["candidates"]


def test_evaluations_of_an_older_version_and_a_single_one_are_shown_too(tmp_path):
    old = {
        "candidate": "onnx",
        "model_id": "m",
        "precision": "int8",
        "parameters": None,
        "source_digest": "d",
        "fingerprint": "f",
        "fidelity": {"kl_mean": 0.01, "top1_agreement": 0.9},
        "cost": {"size_bytes": 1e6, "decode_tokens_per_second": 1.0},
    }
    write(tmp_path / "c", make_entries(found(old)))
    assert "onnx int8" in (tmp_path / "c" / "comparison.md").read_text()
    assert isinstance(make_entries(found(old))[0], Entry)


def test_how_much_the_figures_are_of_stands_beside_them_and_is_no_difference():
    made = evaluation("int8_cpu", fingerprint="g")
    made["tasks"]["items"] = 151
    table = make_table(make_entries(found(evaluation(), made)))
    by_key = {column.key: at for at, column in enumerate(table.columns)}
    cells = [row[by_key[key]] for row in table.rows for key in ("fidelity.tokens", "tasks.items")]
    assert [cell.text for cell in cells] == ["1,280", "2", "1,280", "151"]
    assert not any(cell.difference or cell.best for cell in cells)
    assert all(column.is_lead for column in table.columns if column.key in ("fidelity.tokens", "tasks.items"))


def test_speeds_of_a_busy_machine_and_medians_of_before_are_told_apart():
    quiet = evaluation("a", fingerprint="a")
    quiet["cost"] |= {"decode_tokens_per_second_median": 49.0, "others_before": 0.0, "others_after": 0.1}
    busy = evaluation("b", fingerprint="b")
    busy["cost"] |= {"decode_tokens_per_second_median": 20.0, "others_before": 1.4, "others_after": 0.1}
    assert make_table(make_entries(found(quiet))).notes == []
    notes = make_table(make_entries(found(quiet, busy, evaluation("before", fingerprint="c")))).notes
    assert notes == [
        "b: its speed is of a busy machine, other processes used 1.4 of 2 processors.",
        "Speeds are of the fastest answer, but medians of these: before.",
    ]
    assert (
        make_table(make_entries(found(evaluation("before"), evaluation("too", fingerprint="d")))).notes == []
    )
