"""One champion at every moment: promotion, rollback, and what crashes and hands leave behind."""

import json
import os
import signal

import mlflow
import pytest
from mlflow import MlflowClient

from slmflow.commands.promote import run as promote_command
from slmflow.errors import SlmflowError
from slmflow.registry.aliases import (
    ATTEMPTS,
    INTENT_TAG,
    ROLLED_BACK_TAG,
    Moved,
    again_if_moved,
    promote,
    repair,
    roll_back,
    standing,
)
from slmflow.registry.versions import FINGERPRINT_TAG, Content, register
from tests.registry.conftest import NAME, whole

WRITES = (
    "set_registered_model_tag",
    "delete_registered_model_tag",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "set_model_version_tag",
    "delete_model_version_tag",
    "create_registered_model",
    "create_model_version",
)
HAND_MADE = {"token": 1, "target": 7, "champion": None, "previous": None, "before": None}
"""As an intent, but with numbers for texts."""


def aliases(client):
    now = standing(client, NAME)
    return now.champion, now.previous, now.challenger


def promoted(client, *numbers):
    for number in numbers:
        promote(client, NAME, number, standing(client, NAME).champion, whole)


def tags(client, number):
    return client.get_model_version(NAME, number).tags


@pytest.mark.parametrize("number", ["05", "٣", "0", "-1", "3.0", " 1"])
def test_a_version_that_is_not_written_as_the_registry_does_is_refused(make_versions, number):
    client = make_versions(5)
    promoted(client, "4", "5")
    with pytest.raises(SlmflowError, match="must be a number"):
        promote_command([f"model={NAME}", f"version={number}"])
    with pytest.raises(SlmflowError, match="is not written as the registry writes it"):
        promoted(client, number)
    assert aliases(client) == ("5", "4", None)


@pytest.mark.parametrize("tag", ["{", "[]", "3", '{"token": "t"}', json.dumps(HAND_MADE)])
def test_a_mark_of_a_move_that_nobody_wrote_does_not_stop_the_next(make_versions, tag):
    client = make_versions(3)
    promoted(client, "1")
    client.set_registered_model_tag(NAME, INTENT_TAG, tag)
    assert repair(client, NAME, whole) == []
    promoted(client, "2")
    assert aliases(client) == ("2", "1", None)
    assert INTENT_TAG not in client.get_registered_model(NAME).tags


def test_who_is_always_overtaken_decides_three_times_and_then_says_so():
    calls = []

    def overtaken():
        calls.append(1)
        raise Moved("somebody else")

    with pytest.raises(Moved):
        again_if_moved(overtaken)
    assert len(calls) == ATTEMPTS
    again_if_moved(lambda: calls.append(1))
    assert len(calls) == ATTEMPTS + 1


def test_the_first_champion_has_no_previous(make_versions):
    client = make_versions(1)
    promoted(client, "1")
    assert aliases(client) == ("1", None, None)


def test_the_former_champion_becomes_previous_and_a_promoted_challenger_is_none_any_more(make_versions):
    client = make_versions(3)
    promoted(client, "1", "2")
    client.set_registered_model_alias(NAME, "challenger", "3")
    promoted(client, "3")
    assert aliases(client) == ("3", "2", None)
    assert standing(client, NAME).intent is None


def test_another_challenger_stays_challenger(make_versions):
    client = make_versions(3)
    client.set_registered_model_alias(NAME, "challenger", "3")
    promoted(client, "1", "2")
    assert aliases(client) == ("2", "1", "3")


def test_a_decision_made_on_another_champion_is_not_carried_out(make_versions):
    client = make_versions(3)
    promoted(client, "1", "2")
    with pytest.raises(Moved, match="champion moved from v1 to v2; run again"):
        promote(client, NAME, "3", "1", whole)
    assert aliases(client) == ("2", "1", None)


def test_a_damaged_champion_does_not_become_previous_where_a_whole_one_is(make_versions):
    client = make_versions(3)
    promoted(client, "1", "2")
    promote(client, NAME, "3", "2", lambda version: str(version.version) != "2")
    assert aliases(client) == ("3", "1", None)


def test_rollback_swaps_the_two_and_twice_returns(make_versions):
    client = make_versions(2)
    promoted(client, "1", "2")
    assert roll_back(client, NAME, whole) == [f"{NAME}: champion v2 → v1; previous is v2"]
    assert aliases(client) == ("1", "2", None)
    assert ROLLED_BACK_TAG in tags(client, "2")
    roll_back(client, NAME, whole)
    assert aliases(client) == ("2", "1", None)
    assert ROLLED_BACK_TAG not in tags(client, "2")
    assert ROLLED_BACK_TAG in tags(client, "1")


def test_promoting_what_was_rolled_back_takes_the_mark_away(make_versions):
    client = make_versions(2)
    promoted(client, "1", "2")
    roll_back(client, NAME, whole)
    promoted(client, "2")
    assert ROLLED_BACK_TAG not in tags(client, "2")


def test_there_is_no_rollback_without_a_previous_or_to_a_damaged_one(make_versions):
    client = make_versions(2)
    promoted(client, "1")
    with pytest.raises(SlmflowError, match="no previous version to go back to"):
        roll_back(client, NAME, whole)
    promoted(client, "2")
    with pytest.raises(SlmflowError, match="previous is v1, whose model is gone or damaged"):
        roll_back(client, NAME, lambda version: False)
    assert aliases(client) == ("2", "1", None)


def test_a_model_that_is_not_registered_stands_nowhere_and_needs_no_repair(client):
    assert standing(client, "none") == standing(client, NAME)
    assert repair(client, "none", whole) == []


def test_a_registry_that_does_not_answer_is_not_taken_for_an_empty_one():
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    try:
        with pytest.raises(mlflow.exceptions.MlflowException):
            standing(MlflowClient("http://127.0.0.1:9", "http://127.0.0.1:9"), NAME)
    finally:
        del os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]


def test_a_champion_that_was_deleted_by_hand_is_followed_by_previous(make_versions):
    client = make_versions(2)
    promoted(client, "1", "2")
    client.delete_model_version(NAME, "2")
    assert aliases(client) == (None, "1", None)
    assert repair(client, NAME, whole) == [f"{NAME}: it had no champion, v1 follows"]
    assert aliases(client) == ("1", None, None)


def test_a_rollback_from_a_champion_that_was_deleted_is_its_repair(make_versions):
    client = make_versions(2)
    promoted(client, "1", "2")
    client.delete_model_version(NAME, "2")
    assert roll_back(client, NAME, whole) == [f"{NAME}: it had no champion, v1 follows"]
    assert aliases(client) == ("1", None, None)


def test_a_previous_that_was_deleted_by_hand_leaves_the_champion_alone(make_versions):
    client = make_versions(2)
    promoted(client, "1", "2")
    client.delete_model_version(NAME, "1")
    assert repair(client, NAME, whole) == []
    assert aliases(client) == ("2", None, None)


def test_aliases_moved_by_hand_onto_the_champion_are_taken_away(make_versions):
    client = make_versions(2)
    promoted(client, "1", "2")
    client.set_registered_model_alias(NAME, "challenger", "2")
    client.set_registered_model_alias(NAME, "previous", "2")
    assert len(repair(client, NAME, whole)) == 2
    assert aliases(client) == ("2", None, None)


def dies_after(writes, folder, work):
    """Do `work` in a process of its own, killed by SIGKILL after so many writes; whether it was killed.

    The child opens the store anew, under another spelling of its path.
    """
    child = os.fork()
    if child == 0:
        try:
            mlflow.set_tracking_uri(f"sqlite:///{folder}/./mlflow.db")
            done = 0

            def counted(method):
                def call(*arguments, **words):
                    nonlocal done
                    if done == writes:
                        os.kill(os.getpid(), signal.SIGKILL)
                    done += 1
                    return method(*arguments, **words)

                return call

            for name in WRITES:
                setattr(MlflowClient, name, counted(getattr(MlflowClient, name)))
            work(MlflowClient())
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


KILLED_AFTER = range(8)


@pytest.mark.parametrize("writes", KILLED_AFTER)
def test_a_promotion_killed_anywhere_leaves_one_champion_and_is_finished_by_the_next_run(
    make_versions, store, writes
):
    client = make_versions(3)
    promoted(client, "1", "2")
    client.set_registered_model_alias(NAME, "challenger", "3")
    killed = dies_after(writes, store, lambda other: promote(other, NAME, "3", "2", whole))
    assert killed == (writes < 5)  # intent, previous, champion, challenger, intent
    assert standing(client, NAME).champion == ("2" if writes < 3 else "3")
    said = repair(client, NAME, whole)
    assert bool(said) == (0 < writes < 5)
    assert aliases(client) == (("3", "2", None) if writes else ("2", "1", "3"))
    assert standing(client, NAME).intent is None
    assert repair(client, NAME, whole) == []


@pytest.mark.parametrize("writes", KILLED_AFTER)
def test_a_rollback_killed_anywhere_leaves_one_champion_and_typing_it_again_ends_where_it_should(
    make_versions, store, writes
):
    client = make_versions(2)
    promoted(client, "1", "2")
    killed = dies_after(writes, store, lambda other: roll_back(other, NAME, whole))
    assert killed == (writes < 5)  # intent, previous, champion, the mark, intent
    assert standing(client, NAME).champion == ("2" if writes < 3 else "1")
    if killed:
        roll_back(client, NAME, whole)
    assert aliases(client) == ("1", "2", None)
    assert ROLLED_BACK_TAG in tags(client, "2")


@pytest.mark.parametrize("writes", range(5))
def test_a_repair_killed_anywhere_is_itself_repaired(make_versions, store, writes):
    client = make_versions(3)
    promoted(client, "1", "2")
    client.set_registered_model_alias(NAME, "challenger", "3")
    assert dies_after(1, store, lambda other: promote(other, NAME, "3", "2", whole))
    dies_after(writes, store, lambda other: repair(other, NAME, whole))
    repair(client, NAME, whole)
    assert aliases(client) == ("3", "2", None)


TAKEN_BACK = [f"{NAME}: an interrupted move to v3, which is gone or damaged, was taken back"]


@pytest.mark.parametrize("deleted", [True, False])
def test_an_interrupted_promotion_of_a_version_that_is_gone_or_damaged_is_taken_back(
    make_versions, store, deleted
):
    client = make_versions(3)
    promoted(client, "1", "2")
    assert dies_after(2, store, lambda other: promote(other, NAME, "3", "2", whole))
    if deleted:
        client.delete_model_version(NAME, "3")
    assert repair(client, NAME, lambda version: str(version.version) != "3") == TAKEN_BACK
    assert aliases(client) == ("2", "1", None)


def test_an_interrupted_promotion_whose_previous_was_deleted_is_finished_without_it(make_versions, store):
    """The champion was damaged, so an older version was to stay `previous`; then a hand deleted that one."""
    client = make_versions(3)
    promoted(client, "1", "2")

    def sound(version):
        return str(version.version) != "2"

    assert dies_after(1, store, lambda other: promote(other, NAME, "3", "2", sound))
    client.delete_model_version(NAME, "1")
    repair(client, NAME, sound)
    assert aliases(client) == ("3", None, None)


def test_a_champion_set_by_hand_during_an_interrupted_move_stays(make_versions, store):
    client = make_versions(4)
    promoted(client, "1", "2")
    assert dies_after(2, store, lambda other: promote(other, NAME, "3", "2", whole))
    client.set_registered_model_alias(NAME, "champion", "4")
    repair(client, NAME, whole)
    assert aliases(client) == ("4", "2", None)


@pytest.fixture
def registered(client):
    """A function that registers one content as a run does."""
    model_id = client.create_logged_model("0").model_id

    def run(client):
        repair(client, NAME, whole)
        content = Content(NAME, model_id, "0" * 32, {FINGERPRINT_TAG: "f", "gate": "pass"}, "")
        return register(content, standing(client, NAME).champion, whole, promotes=True)

    return run


@pytest.mark.parametrize("writes", range(9))
def test_a_registration_killed_anywhere_is_finished_by_registering_again_with_one_version(
    make_versions, store, writes, registered
):
    client = make_versions(1)
    promoted(client, "1")
    killed = dies_after(writes, store, registered)
    # The model, the version, challenger; intent, previous, champion, challenger, intent.
    assert killed == (writes < 8)
    assert standing(client, NAME).champion == ("1" if writes < 6 else "2")
    assert registered(client).version == "2"
    assert aliases(client) == ("2", "1", None)
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 2


def test_the_first_registration_killed_anywhere_is_finished_by_the_next(store, client, registered):
    writes = 0
    while dies_after(writes, store, registered):
        writes += 1
    assert aliases(client) == ("1", None, None)
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 1
