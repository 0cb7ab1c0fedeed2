"""Task items are read whole or refused by line; scores are their definitions."""

import json
import math
import re
import string
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmflow.errors import SlmflowError
from slmflow.quality.asking import log_likelihoods, measure_tasks
from slmflow.quality.items import SHIPPED, Item, Items, read_items
from slmflow.quality.rules import RULES, is_valid_json, keeps, normalised
from slmflow.quality.tasks import Row, figures, judged, rows_of, table

GOOD = {"id": "a", "kind": "closed", "question": "What?", "answers": ["this"]}
CHOICE = {"id": "c", "kind": "multiple_choice", "question": "Q?", "choices": ["x", "y"], "answer": 1}
RULE = {"id": "r", "kind": "instruction", "prompt": "p", "rules": [{"rule": "contains", "value": "b"}]}
DEEP = '{"id": "j", "kind": "json", "prompt": "p", "schema": ' + '{"not": ' * 900 + "{}" + "}" * 901 + "\n"
SCHEMA = {"id": "j", "kind": "json", "prompt": "p", "schema": {"type": "object"}}


def read(path, *rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return read_items(str(path))


def test_the_shipped_items_are_many_balanced_and_right_by_their_own_rules():
    items = read_items("shipped").rows
    kinds = [item.kind for item in items]
    assert 240 <= len(items) <= 300
    assert {kind: kinds.count(kind) >= 20 for kind in set(kinds)} == dict.fromkeys(
        ("multiple_choice", "closed", "instruction", "json"), True
    )
    assert len({json.dumps(item.fields, sort_keys=True) for item in items}) == len(items)
    gold = [item.fields["answer"] for item in items if item.kind == "multiple_choice"]
    assert max(map(gold.count, set(gold))) <= 0.35 * len(gold)
    for item in items:
        if item.kind == "closed":
            assert all(judged(item, f"{answer}.").correct for answer in item.fields["answers"])
            assert not judged(item, "something else entirely").correct
        elif item.kind != "multiple_choice":
            assert not judged(item, "").correct
            probes = ("This Answer, keeps none; Of birds cold good.\n\n" * 9, "x")
            assert not all(judged(item, said).correct for said in probes), item.id


def test_every_shipped_instruction_and_schema_accepts_a_right_answer():
    right = json.loads((Path(__file__).parent / "right_answers.json").read_text())
    asked = {item.id: item for item in read_items("shipped").rows if item.kind in ("instruction", "json")}
    assert set(right) == set(asked)
    for name, item in asked.items():
        assert judged(item, right[name]).correct, name


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("no json\n", "line 2: it is not JSON: Expecting value at column 1"),
        ("[1]\n", "line 2: it is not a JSON object"),
        ({**GOOD, "id": ""}, "line 2: id must be"),
        ({**GOOD, "kind": "essay"}, "line 2: kind=essay: must be one of multiple_choice"),
        ({**GOOD, "kind": ["closed"]}, "kind=['closed']: must be one of"),
        ({"id": "b", "kind": "closed", "question": "Q"}, "answers is missing"),
        ({**GOOD, "id": "b", "answers": "this"}, "answers='this': must be a list that is not empty"),
        ({**GOOD, "id": "b", "answers": [1]}, "answers must be texts"),
        ({**GOOD, "id": "b", "more": 1}, "'more' is not a field of kind closed, which has answers, question"),
        (GOOD, "line 2: id 'a' is there twice"),
        ({**CHOICE, "answer": 2}, "answer must be from 0 to 1"),
        ({**CHOICE, "answer": "1"}, "answer='1': must be a whole number"),
        ({**CHOICE, "answer": True}, "answer=True: must be a whole number"),
        ({**CHOICE, "choices": ["x", "x"]}, "different texts"),
        ({**CHOICE, "text": "both"}, "it has both question and text: give one"),
        ({**RULE, "rules": [{"rule": "rhymes"}]}, "rules: {'rule': 'rhymes'} must hold"),
        ({**RULE, "rules": [{"rule": ["contains"]}]}, "and `rule`: contains"),
        (
            {**SCHEMA, "schema": {"$dynamicRef": "http://127.0.0.1:9/x.json"}},
            "$dynamicRef 'http://127.0.0.1:9",
        ),
        ({**SCHEMA, "schema": {"$ref": "https://json-schema.org/draft/2020-12/schema"}}, "points to nothing"),
        ({**SCHEMA, "schema": {"$dynamicRef": "#none"}}, "$dynamicRef '#none' points to nothing"),
        (
            '{"id": "b", "kind": "closed", "question": "Q", "question": "R", "answers": ["a"]}',
            "'question' is there",
        ),
        ('{"id": "b", "kind": "json", "prompt": "p", "schema": {"maximum": 1e999}}', "1e999 is too large"),
        ({**RULE, "rules": [{"rule": "lower_case", "value": 1}]}, "lower_case takes no value"),
        ({**RULE, "rules": [{"rule": "lines", "value": "2"}]}, "lines takes a value of type int"),
        ({**RULE, "rules": [{"rule": "matches", "value": "("}]}, "matches: "),
        ({**SCHEMA, "schema": {"type": "thing"}}, "schema: "),
        ({**SCHEMA, "schema": {"$ref": "http://127.0.0.1:9/x.json"}}, "points to nothing within"),
        ({**SCHEMA, "schema": {"items": {"$ref": "#/$defs/no"}}}, "'#/$defs/no' points to nothing"),
        (DEEP, "line 2: schema: it is nested too deeply"),
        ({**SCHEMA, "schema": {"const": math.nan}}, "line 2: it is not JSON"),
        ({**RULE, "rules": [{"rule": "matches", "value": "a{99999999999}"}]}, "repetition number"),
        ({**RULE, "rules": [{"rule": "matches", "value": "(" * 3000 + ")" * 3000}]}, "matches: "),
        ({**RULE, "rules": [{"rule": "lines", "value": -1}]}, "a value of at least 1"),
        ({**GOOD, "id": "b", "question": "  "}, "question='  ': must be a text"),
        ({**GOOD, "id": "b", "answers": ["b", "The!"]}, "'The!' is only articles"),
        ({**CHOICE, "choices": ["\ud800", "x"]}, "half of a surrogate pair"),
    ],
)
def test_a_wrong_row_is_named_by_its_line_and_field(tmp_path, row, why):
    with pytest.raises(SlmflowError) as refused:
        read(tmp_path / "items.jsonl", GOOD, row)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_file_and_no_row_are_refused(tmp_path):
    with pytest.raises(SlmflowError, match="cannot be read"):
        read_items(str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(SlmflowError, match="there is no item"):
        read(tmp_path / "items.jsonl", "\n\n")


FIELD = st.sampled_from(("id", "kind", "question", "text", "choices", "answer", "answers", "prompt")) | (
    st.sampled_from(("rules", "rule", "value", "schema", "$ref", "type", "items", "pattern", "required"))
)
ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(list(RULES)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELD, inner, max_size=4),
    max_leaves=12,
)


def altered(row):
    """The row with some of its fields changed, gone or new."""
    changed = st.dictionaries(FIELD, ANY, max_size=2)
    left = st.sets(st.sampled_from(list(row)), min_size=len(row) - 1)
    return st.builds(lambda kept, new: {key: row[key] for key in row if key in kept} | new, left, changed)


@given(st.lists(st.sampled_from([GOOD, CHOICE, RULE, SCHEMA]).flatmap(altered), min_size=1, max_size=3))
def test_a_row_altered_anyhow_is_read_and_judged_or_refused_by_its_line(tmp_path_factory, altered_rows):
    path = tmp_path_factory.getbasetemp() / "altered.jsonl"
    try:
        items = read(path, *altered_rows)
    except SlmflowError as refused:
        assert re.search(r", line [123]: \S", str(refused))
        assert len(str(refused).splitlines()) == 1
        return
    assert len(items.rows) == len(altered_rows)
    measure_tasks(Letters(), items, path.with_suffix(f".{items.digest}"))


@given(st.binary(max_size=300))
def test_whatever_the_bytes_there_are_items_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(content)
    with pytest.raises(SlmflowError) as refused:
        read_items(str(path))
    assert len(str(refused.value).splitlines()) == 1


def test_an_evaluation_dataset_of_mlflow_is_read_and_a_wrong_record_named(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_tracking_uri(None)
    dataset = mlflow.genai.datasets.create_dataset(name="capitals")
    dataset.merge_records(
        [
            {"inputs": {"question": "Capital of Peru?"}, "expectations": {"expected_response": "Lima"}},
            {"inputs": {"kind": "json", "prompt": "p"}, "expectations": {"schema": {"type": "object"}}},
        ]
    )
    found = {item.kind: item for item in read_items("dataset:capitals").rows}
    assert found["closed"].fields == {"question": "Capital of Peru?", "answers": ["Lima"]}
    assert found["json"].fields["schema"] == {"type": "object"}
    assert read_items("dataset:capitals").digest == read_items("dataset:capitals").digest
    dataset.merge_records([{"inputs": {"question": "Capital of Chile?"}}])
    with pytest.raises(SlmflowError, match=r"dataset:capitals, record \d: answers is missing"):
        read_items("dataset:capitals")
    with pytest.raises(SlmflowError, match="dataset:nowhere: MLflow says"):
        read_items("dataset:nowhere")


def test_the_digest_is_of_what_is_asked_and_not_of_how_it_is_written(tmp_path):
    one = read(tmp_path / "a.jsonl", GOOD, CHOICE)
    other = read(
        tmp_path / "b.jsonl", "\n" + json.dumps(GOOD, indent=None, separators=(", ", ":  ")) + "\n", CHOICE
    )
    assert one.digest == other.digest
    assert one.digest != read(tmp_path / "c.jsonl", CHOICE, GOOD).digest
    assert len(read_items("shipped").digest) == 64 == len(read_items(str(SHIPPED)).digest)


class Letters:
    """A candidate that knows letters: a token a character, each twice as likely as the next in the alphabet."""

    context_length = 10_000

    def __init__(self):
        self.asked = 0

    def encode(self, text):
        return [ord(letter) % 128 for letter in text]

    def logprobs(self, ids):
        weights = 0.5 ** np.arange(128)[::-1]
        return np.tile(np.log(weights / weights.sum()), (len(ids), 1)).astype(np.float32)

    def rows(self, length):
        return 8

    def prompt_ids(self, chat):
        return self.encode(chat[-1]["content"])

    def branch_logprobs(self, asked):
        found = []
        for context, continuations in asked:
            assert context
            self.asked += len(continuations)
            logs = [self.logprobs(context + ids)[len(context) - 1 : -1] for ids in continuations]
            found.append([log[range(len(ids)), ids] for log, ids in zip(logs, continuations, strict=True)])
        return found

    def answers(self, prompts, new_tokens):
        self.asked += len(prompts)
        assert len(new_tokens) == len(prompts)
        return ["".join(map(chr, ids)).upper() for ids in prompts]


def test_a_choice_is_scored_by_the_sum_of_its_own_tokens(tmp_path):
    candidate = Letters()
    (sums,) = log_likelihoods(candidate, [("Q:", [" a", " z", " zz"])])
    row = candidate.logprobs([0])[0].astype(float)
    a, z, space = row[ord("a")], row[ord("z")], row[32]
    assert sums == pytest.approx([space + a, space + z, space + 2 * z], rel=1e-6)
    items = read(tmp_path / "items.jsonl", {**CHOICE, "choices": ["a", "z", "zzzz"], "answer": 2})
    (found,) = measure_tasks(candidate, items, tmp_path / "journal")
    assert (found.answer, found.correct, found.correct_norm) == ("z", False, True)


def test_the_journal_is_gone_on_with_and_a_torn_line_asked_again(tmp_path):
    items = read(tmp_path / "items.jsonl", CHOICE, GOOD, RULE, SCHEMA)
    journal = tmp_path / "journal"
    whole = measure_tasks(Letters(), items, journal)
    assert [row.id for row in whole] == ["c", "a", "r", "j"]
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:2]) + lines[2][:20])
    candidate = Letters()
    assert measure_tasks(candidate, items, journal) == whole
    assert candidate.asked == 2
    assert measure_tasks(candidate, items, journal) == whole
    assert candidate.asked == 2


def test_a_batch_is_asked_whole_again_so_that_it_does_not_depend_on_where_an_earlier_run_stopped(tmp_path):
    class Batches(Letters):
        def answers(self, prompts, new_tokens):
            return [f"one of {len(prompts)}" for _ in prompts]

    items = read(tmp_path / "items.jsonl", *({**GOOD, "id": str(at)} for at in range(11)))
    whole = measure_tasks(Batches(), items, tmp_path / "journal")
    assert {row.answer for row in whole} == {"one of 8", "one of 3"}
    for kept in range(11):
        journal = tmp_path / f"journal-{kept}"
        journal.write_text("".join((tmp_path / "journal").read_text().splitlines(keepends=True)[:kept]))
        assert measure_tasks(Batches(), items, journal) == whole


def test_an_item_that_the_context_cannot_hold_is_named_before_anything_is_asked(tmp_path):
    candidate = Letters()
    candidate.context_length = 200
    items = read(tmp_path / "items.jsonl", CHOICE, {**RULE, "prompt": "long " * 40})
    with pytest.raises(SlmflowError, match="item 'r' needs 264 tokens with its answer"):
        measure_tasks(candidate, items, tmp_path / "journal")
    assert candidate.asked == 0
    assert not (tmp_path / "journal").exists()


def test_white_space_at_the_end_of_a_context_is_scored_with_the_choice():
    candidate = Letters()
    with_space, without = log_likelihoods(candidate, [("Q: ", ["z"]), ("Q:", [" z"])])
    assert with_space == without


def test_many_choices_hold_no_more_at_once_than_a_few_and_are_scored_alike():
    class Few(Letters):
        def branch_logprobs(self, asked):
            assert all(len(continuations) <= 4 for _, continuations in asked)
            return super().branch_logprobs(asked)

    choices = [f" {letter}" for letter in string.ascii_letters]
    (found,) = log_likelihoods(Few(), [("Q:", choices)])
    alone = log_likelihoods(Few(), [("Q:", [choice]) for choice in choices])
    assert found == [one for (one,) in alone]


def test_choices_that_join_with_the_whole_context_are_scored_each_after_its_own_first_token():
    class Joined(Letters):
        def encode(self, text):
            return [{"q a": 90, "q b": 91, "q": 92}[text[:3]], *super().encode(text[3:])]

    candidate = Joined()
    row = candidate.logprobs([0])[0].astype(float)
    (found,) = log_likelihoods(candidate, [("q", [" az", " bzz"])])
    assert found == pytest.approx([row[ord("z")], 2 * row[ord("z")]], rel=1e-6)


def test_file_of_another_system_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "items.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n")
    assert read_items(str(tmp_path / "items.jsonl")).rows[0].id == "a"


def rows(*correct):
    return [Row(str(at), "closed" if at % 2 else "json", one, "", "") for at, one in enumerate(correct)]


def test_scores_have_binomial_errors_and_flips_count_both_ways():
    mine = rows(True, True, False, True, True, False)
    theirs = rows(True, False, True, True, True, False)
    found = figures(mine, theirs, "d", "d")
    assert found["kinds"]["json"]["score"] == pytest.approx(2 / 3)
    assert found["kinds"]["json"]["score_se"] == pytest.approx(math.sqrt(2 / 3 * 1 / 3 / 3))
    assert found["score"] == pytest.approx(2 / 3)
    assert found["score_se"] == pytest.approx(math.sqrt(2 * (2 / 9 / 3)) / 2)
    assert found["flips"] == pytest.approx(2 / 6)
    assert figures(mine, None, "d")["flips"] is None
    assert figures(mine, theirs[:3], "d", "d")["flips"] is None
    assert figures(mine, mine, "d", "d")["flips"] == 0
    assert "note" not in figures(mine, mine, "d", "d")
    others = figures(mine, theirs, "d", "e")
    assert others["flips"] is None, "the same ids, other items"
    assert others["note"] == "flips are not measured: the reference answered other items"


def test_a_table_is_read_back_as_the_rows_that_it_was_made_of():
    made = [*rows(True, False), Row("c", "multiple_choice", True, "x", "y", False)]
    assert rows_of(json.loads(json.dumps(table(made)))) == made


@pytest.mark.parametrize(
    ("answer", "rule", "value", "kept"),
    [
        ("The SEA is blue", "contains", "Blue", True),
        ("a, b", "excludes", ",", False),
        (" Dear friend, hello", "starts_with", "dear friend", True),
        ("so. The end.\n", "ends_with", "The end.", True),
        ("all low", "lower_case", None, True),
        ("123", "lower_case", None, False),
        ("ICE!", "upper_case", None, True),
        ("one two three", "at_most_words", 2, False),
        ("one two three", "at_least_words", 3, True),
        ("a\n\nb\n", "lines", 2, True),
        ("- a\n* b\n• c", "bullets", 3, True),
        ("-a\n- b", "bullets", 2, False),
        ("", "excludes", ",", False),
        ("7", "matches", "[1-9]", True),
    ],
)
def test_rules(answer, rule, value, kept):
    assert keeps(answer, rule, value) is kept


def test_json_is_judged_by_its_schema_and_may_stand_in_one_fence():
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    assert is_valid_json('{"a": 1}', schema)
    assert is_valid_json('Here:\n```json\n{"a": 1}\n```\nDone.', schema)
    for wrong in ('{"a": "1"}', '{"a": 1} and more', "{'a': 1}", '{"a": NaN}', "", "[" * 5000):
        assert not is_valid_json(wrong, schema)


@given(st.text(max_size=40))
def test_normalising_twice_is_normalising_once(text):
    assert normalised(normalised(text)) == normalised(text)


def test_exact_match_knows_no_case_article_or_punctuation():
    item = Item("a", "closed", {"question": "Q", "answers": ["the Pacific Ocean"]})
    assert judged(item, " Pacific ocean!").correct
    assert not judged(item, "It is the Pacific Ocean").correct


def test_what_only_looks_like_a_reference_is_a_value(tmp_path):
    schema = {"enum": [{"$ref": "anything"}], "default": {"$dynamicRef": "http://x.example/"}}
    (item,) = read(tmp_path / "items.jsonl", {**SCHEMA, "schema": schema}).rows
    assert judged(item, '{"$ref": "anything"}').correct
    assert not judged(item, "3").correct


def test_references_by_name_by_place_and_by_anchor_are_followed_without_asking_anybody(tmp_path):
    node = {
        "$dynamicAnchor": "node",
        "properties": {"next": {"$dynamicRef": "#node"}, "v": {"$ref": "#/$defs/n"}},
    }
    schema = {"$id": "http://127.0.0.1:9/own.json", **node, "$defs": {"n": {"type": "integer"}}}
    (item,) = read(tmp_path / "items.jsonl", {**SCHEMA, "schema": schema}).rows
    assert judged(item, '{"v": 1, "next": {"v": 2}}').correct
    assert not judged(item, '{"v": 1, "next": {"v": "two"}}').correct


def test_an_answer_that_no_arithmetic_can_judge_is_wrong_and_stops_nothing(tmp_path):
    (item,) = read(tmp_path / "items.jsonl", {**SCHEMA, "schema": {"multipleOf": 0.1}}).rows
    assert not judged(item, "7" * 400).correct
    assert judged(item, "7").correct


@pytest.mark.parametrize(
    ("said", "same"),
    [("The Beatles!", "beatles"), ("twenty-four", "twentyfour"), ("U.S.A.", "usa"), ("a  B\tc", "b c")],
)
def test_closed_answers_are_normalised_as_squads_script_does(said, same):
    assert normalised(said) == same


@given(st.text())
def test_the_normalisation_is_that_of_squads_script(text):
    """`normalize_answer` of evaluate-v1.1.py, written out."""
    bare = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    assert normalised(text) == " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def test_acc_norm_divides_by_characters_as_lm_evaluation_harness_does():
    """Each choice of n letters is as probable; by bytes the two-byte letters would make the first one win."""

    class Two(Letters):
        def logprobs(self, ids):
            logs = np.zeros((len(ids), 128), np.float32)
            logs[:, :] = -1.0
            return logs

    choices = {"question": "Q", "choices": ["ÄÖÜÄÖÜÄÖÜ", "abcdefghijkl"], "answer": 1}
    items = Items((Item("c", "multiple_choice", choices),))
    (row,) = measure_tasks(Two(), items, Path(tempfile.mkdtemp()) / "journal")
    assert row.correct_norm is True
