"""The aliases of a registered model: `challenger`, `champion` and `previous`, moved so that a crash heals.

MLflow sets one alias a call and has no compare-and-set. So a move first leaves its intent as a tag of the
registered model, then writes `previous`, then `champion`, and takes the intent away last. Whoever comes
next finds the intent of a process that died and carries it out. `champion` is overwritten and never taken
away: at every moment there is one champion, the old one or the new one.

Callers hold `registry_lock` of `slmflow.registry.versions`, which keeps the processes of one host apart.
Between hosts the intent is read back before each write: two moves begun at once can both go on only if
the second leaves its intent between such a reading of the first and the write that follows it.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from slmflow.errors import SlmflowError, first_line
from slmflow.tracking import is_absent

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
INTENT_TAG = "slmflow_promotion"
"""Tag of a registered model while its champion is being moved; in characters that every registry takes."""
ROLLED_BACK_TAG = "rolled_back"
"""Tag of a version, a time: it was champion until somebody rolled it back, so no run promotes it again."""

Intact = Callable[[ModelVersion], bool]
"""Whether a version's model still holds what was logged."""


class Moved(SlmflowError):  # noqa: N818 it says what happened
    """Somebody else moved the aliases meanwhile; what was decided on them no longer holds."""


ATTEMPTS = 3
"""Times that a decision is made anew because another host moved the champion meanwhile."""


def again_if_moved(work: Callable[[], None]) -> None:
    """Do what decides on the aliases and moves them; anew where they moved meanwhile, then raises Moved."""
    for _ in range(ATTEMPTS - 1):
        try:
            return work()
        except Moved:
            continue
    return work()


@dataclass(frozen=True)
class Intent:
    """A move of the champion that has begun."""

    token: str
    target: str
    """The version that becomes champion."""
    champion: str | None
    """The champion when it began."""
    previous: str | None
    """The version that becomes `previous`."""
    before: str | None
    """`previous` when it began."""
    back: bool = False
    """Whether it rolls the champion back."""


@dataclass(frozen=True)
class Standing:
    """Where the aliases of one registered model stand, read in one request; None for those that do not."""

    champion: str | None = None
    challenger: str | None = None
    previous: str | None = None
    intent: Intent | None = None


def standing(client: MlflowClient, name: str) -> Standing:
    """Where the aliases stand; all None for a model that is not registered."""
    try:
        model = client.get_registered_model(name)
    except MlflowException as error:
        if is_absent(error):
            return Standing()
        raise
    numbers = {alias: str(version) for alias, version in model.aliases.items()}
    intent = _intent_of(model.tags.get(INTENT_TAG))
    return Standing(numbers.get(CHAMPION), numbers.get(CHALLENGER), numbers.get(PREVIOUS), intent)


def _intent_of(written: str | None) -> Intent | None:
    """What the tag says; None for one that no version of this project can have written."""
    try:
        intent = Intent(**json.loads(written)) if written else None
    except (ValueError, TypeError):
        return None
    if intent is None:
        return None
    numbers = (intent.champion, intent.previous, intent.before)
    whole = isinstance(intent.token, str) and _is_number(intent.target) and isinstance(intent.back, bool)
    return intent if whole and all(one is None or _is_number(one) for one in numbers) else None


def _is_number(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[1-9][0-9]*", value) is not None


def promote(client: MlflowClient, name: str, number: str, seen: str | None, is_intact: Intact) -> None:
    """Make a version champion; the former one becomes `previous`.

    A former champion whose model is damaged cannot be gone back to: then `previous` stays where it is.
    `seen` is the champion that the decision was made on: raises Moved when there is another one now.
    """
    if not _is_number(number):  # a store takes 05 and ٣ for numbers, and aliases compare texts
        raise SlmflowError(f"{name}: version {number!r} is not written as the registry writes it")
    now = standing(client, name)
    if now.champion != seen:
        raise Moved(f"{name}: champion moved from {_shown(seen)} to {_shown(now.champion)}; run again")
    if now.champion == number:
        return
    former = [other for other in (now.champion, now.previous) if other not in (None, number)]
    kept = next((o for o in former if o and _is_whole(client, name, o, is_intact)), None)
    _move(client, name, Intent(_token(), number, now.champion, kept, now.previous))


def roll_back(client: MlflowClient, name: str, is_intact: Intact) -> list[str]:
    """Repair, then swap champion and previous; returns a line for each thing done.

    Where a repair has just done so (a rollback that was interrupted, a champion that was gone) that is all.
    Raises SlmflowError when there is nothing to go back to, or its model is damaged.
    """
    seen = standing(client, name)
    said = repair(client, name, is_intact)
    now = standing(client, name)
    interrupted = seen.intent is not None and seen.intent.back and now.champion == seen.intent.target
    if interrupted or (seen.champion is None and now.champion is not None):
        return said
    if now.previous is None:
        raise SlmflowError(f"model={name}: it has no previous version to go back to; promote one by number")
    if not _is_whole(client, name, now.previous, is_intact):
        raise SlmflowError(
            f"model={name}: previous is v{now.previous}, whose model is gone or damaged; "
            "promote another version by number"
        )
    _move(client, name, Intent(_token(), now.previous, now.champion, now.champion, now.previous, back=True))
    return [*said, f"{name}: champion v{now.champion} → v{now.previous}; previous is v{now.champion}"]


def repair(client: MlflowClient, name: str, is_intact: Intact) -> list[str]:
    """Finish what an interrupted move began, and put right what a hand left; returns a line for each.

    A version that was deleted took its aliases with it. So a champion that is missing is followed by
    `previous` if that is whole; a `previous` or `challenger` that is the champion itself is taken away.
    """
    said = []
    now = standing(client, name)
    if (intent := now.intent) is not None:
        if now.champion not in (intent.champion, intent.target):
            client.delete_registered_model_tag(name, INTENT_TAG)
            said.append(f"{name}: champion was set by hand during an interrupted move; it stays")
        elif now.champion == intent.target or _is_whole(client, name, intent.target, is_intact):
            _carry_out(client, name, intent)
            said.append(f"{name}: an interrupted move of champion to v{intent.target} was finished")
        else:
            before = intent.before if intent.before and exists(client, name, intent.before) else None
            _set(client, name, PREVIOUS, before, now.previous)
            client.delete_registered_model_tag(name, INTENT_TAG)
            said.append(
                f"{name}: an interrupted move to v{intent.target}, which is gone or damaged, was taken back"
            )
        now = standing(client, name)
    if now.champion is None and now.previous and _is_whole(client, name, now.previous, is_intact):
        _move(client, name, Intent(_token(), now.previous, None, None, now.previous))
        said.append(f"{name}: it had no champion, v{now.previous} follows")
        now = standing(client, name)
    for alias, number in ((PREVIOUS, now.previous), (CHALLENGER, now.challenger)):
        if number is not None and number == now.champion:
            client.delete_registered_model_alias(name, alias)
            said.append(f"{name}: {alias} was the champion itself and is taken away")
    return said


def exists(client: MlflowClient, name: str, number: str) -> bool:
    """Whether a version is in the registry."""
    return _version(client, name, number) is not None


def _version(client: MlflowClient, name: str, number: str) -> ModelVersion | None:
    try:
        return client.get_model_version(name, number)
    except MlflowException as error:
        if is_absent(error):
            return None
        raise


def _is_whole(client: MlflowClient, name: str, number: str, is_intact: Intact) -> bool:
    version = _version(client, name, number)
    return version is not None and is_intact(version)


def _move(client: MlflowClient, name: str, intent: Intent) -> None:
    with _refusals(name):
        client.set_registered_model_tag(name, INTENT_TAG, json.dumps(asdict(intent)))
    _carry_out(client, name, intent)


@contextlib.contextmanager
def _refusals(name: str) -> Iterator[None]:
    """What a store answers to one of two writes at once, or to a version deleted meanwhile, as Moved."""
    try:
        yield
    except MlflowException as error:
        if error.error_code not in ("BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST"):
            raise
        raise Moved(f"{name}: the registry refused a write: {first_line(error)}; run again") from None


def _carry_out(client: MlflowClient, name: str, intent: Intent) -> None:
    """All that a move writes, each only where it is not done yet. Raises Moved when it is not ours to do."""
    with _refusals(name):
        previous = intent.previous
        if previous is not None and not exists(client, name, previous):  # deleted by hand since
            previous = None
        for alias, number in ((PREVIOUS, previous), (CHAMPION, intent.target)):
            now = _read_back(client, name, intent)
            if now is None:
                return
            _set(client, name, alias, number, getattr(now, alias))
        if intent.back and intent.champion and exists(client, name, intent.champion):
            when = datetime.now(UTC).isoformat(timespec="seconds")
            client.set_model_version_tag(name, intent.champion, ROLLED_BACK_TAG, when)
        promoted = client.get_model_version(name, intent.target)
        if ROLLED_BACK_TAG in promoted.tags:
            client.delete_model_version_tag(name, intent.target, ROLLED_BACK_TAG)
        now = _read_back(client, name, intent)
        if now is None:
            return
        if now.challenger == intent.target:
            client.delete_registered_model_alias(name, CHALLENGER)
        client.delete_registered_model_tag(name, INTENT_TAG)


def _read_back(client: MlflowClient, name: str, intent: Intent) -> Standing | None:
    """The standing while the move is ours; None when another host has finished it for us.

    Raises Moved when another host has begun its own.
    """
    now = standing(client, name)
    if now.intent is None and now.champion == intent.target:
        return None
    if now.intent != intent or now.champion not in (intent.champion, intent.target):
        raise Moved(f"{name}: somebody else is moving champion, now {_shown(now.champion)}; run again")
    return now


def _set(client: MlflowClient, name: str, alias: str, number: str | None, now: str | None) -> None:
    if number is not None and number != now:
        client.set_registered_model_alias(name, alias, number)
    if number is None and now is not None:
        client.delete_registered_model_alias(name, alias)


def _token() -> str:
    return secrets.token_hex(8)


def _shown(number: str | None) -> str:
    return "no version" if number is None else f"v{number}"
