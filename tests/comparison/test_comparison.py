"""A comparison is a pure function: who is best among comparable ones, the front, the flips, one sentence."""

import csv
import html.parser
import io
import itertools
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmflow.comparison.entry import Entry, make_entries
from slmflow.comparison.files import write_comparison
from slmflow.comparison.flips import flips_of
from slmflow.comparison.pareto import Point, front_of, points_of, recommend
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
        entry, sentence = recommend(points_of(make_entries(found(evaluation(kl=0.0), *evaluations))), GATE)
        return entry.label if entry else sentence

    assert chosen(evaluation("fast_but_bad", kl=0.5, top1=0.5, speed=900.0), evaluation("good")) == "good"
    assert chosen(evaluation("a", size=9e7, speed=96.0), evaluation("b", size=2e8, speed=100.0)) == "a"
    assert chosen(evaluation("a", size=9e7, speed=90.0), evaluation("b", size=2e8, speed=100.0)) == "b"
    assert chosen(evaluation("bad", kl=0.5)).startswith("Ship none of these")
    assert recommend([], GATE)[0] is None


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
