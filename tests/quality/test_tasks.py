"""Task items are read whole or refused by line; scores are their definitions."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmflow.errors import SlmflowError
from slmflow.quality.items import SHIPPED, Item, read_items
from slmflow.quality.rules import is_valid_json, keeps, normalised
from slmflow.quality.tasks import Row, figures, judged, log_likelihoods, measure_tasks, rows_of, table

GOOD = {"id": "a", "kind": "closed", "question": "What?", "answers": ["this"]}
CHOICE = {"id": "c", "kind": "multiple_choice", "question": "Q?", "choices": ["x", "y"], "answer": 1}
RULE = {"id": "r", "kind": "instruction", "prompt": "p", "rules": [{"rule": "contains", "value": "b"}]}
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


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("no json\n", "line 2: it is not JSON"),
        ("[1]\n", "line 2: it is not a JSON object"),
        ({**GOOD, "id": ""}, "line 2: id must be"),
        ({**GOOD, "kind": "essay"}, "line 2: kind must be one of multiple_choice"),
        ({**GOOD, "kind": ["closed"]}, "kind must be one of"),
        ({"id": "b", "kind": "closed", "question": "Q"}, "answers is missing"),
        ({**GOOD, "id": "b", "answers": "this"}, "answers must be a list"),
        ({**GOOD, "id": "b", "answers": [1]}, "answers must be texts"),
        ({**GOOD, "id": "b", "more": 1}, "'more' is not a field of kind closed"),
        (GOOD, "line 2: id 'a' is there twice"),
        ({**CHOICE, "answer": 2}, "answer must be from 0 to 1"),
        ({**CHOICE, "answer": True}, "answer must be a int"),
        ({**CHOICE, "choices": ["x", "x"]}, "different texts"),
        ({**CHOICE, "text": "both"}, "'text' is not a field"),
        ({**RULE, "rules": [{"rule": "rhymes"}]}, "rules must be of contains"),
        ({**RULE, "rules": [{"rule": "lower_case", "value": 1}]}, "lower_case takes no value"),
        ({**RULE, "rules": [{"rule": "lines", "value": "2"}]}, "lines takes a value of type int"),
        ({**RULE, "rules": [{"rule": "matches", "value": "("}]}, "matches: "),
        ({**SCHEMA, "schema": {"type": "thing"}}, "schema: "),
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

    def __init__(self):
        self.asked = 0

    def encode(self, text):
        return [ord(letter) % 128 for letter in text]

    def logprobs(self, ids):
        self.asked += 1
        weights = 0.5 ** np.arange(128)[::-1]
        return np.tile(np.log(weights / weights.sum()), (len(ids), 1)).astype(np.float32)

    def answers(self, chats, new_tokens):
        self.asked += len(chats)
        return [chat[-1]["content"].upper() for chat in chats]


def test_a_choice_is_scored_by_the_sum_of_its_own_tokens(tmp_path):
    candidate = Letters()
    sums = log_likelihoods(candidate, "Q:", [" a", " z", " zz"])
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


def rows(*correct):
    return [Row(str(at), "closed" if at % 2 else "json", one, "", "") for at, one in enumerate(correct)]


def test_scores_have_binomial_errors_and_flips_count_both_ways():
    mine = rows(True, True, False, True, True, False)
    theirs = rows(True, False, True, True, True, False)
    found = figures(mine, theirs, "d")
    assert found["kinds"]["json"]["score"] == pytest.approx(2 / 3)
    assert found["kinds"]["json"]["score_se"] == pytest.approx(math.sqrt(2 / 3 * 1 / 3 / 3))
    assert found["score"] == pytest.approx(2 / 3)
    assert found["score_se"] == pytest.approx(math.sqrt(2 * (2 / 9 / 3)) / 2)
    assert found["flips"] == pytest.approx(2 / 6)
    assert figures(mine, None, "d")["flips"] is None
    assert figures(mine, theirs[:3], "d")["flips"] is None
    assert figures(mine, mine, "d")["flips"] == 0


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
