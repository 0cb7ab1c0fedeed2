"""The end of a sweep: the recommended candidate becomes champion, once, and the aliases tell so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient

from slmflow.config import GateMode, Promote
from slmflow.registry.aliases import CHALLENGER, again_if_moved, promote, repair, standing
from slmflow.registry.relative import Measured
from slmflow.registry.versions import registry_lock, rolled_back_of
from slmflow.workflow.evidence import is_intact, verdict_on

if TYPE_CHECKING:
    from slmflow.config import GateConfig


@dataclass(frozen=True)
class Recommended:
    """A registered candidate that a sweep recommends."""

    name: str
    """Its registered model."""
    version: str
    evaluation: dict[str, Any]
    items: dict[str, Any] | None
    """Its `items.json`."""
    others: frozenset[str]
    """The other versions that the sweep registered of the same model."""
    windows: dict[str, Any] | None = None
    """Its `windows.json`."""


def promote_recommended(chosen: Recommended, gate: GateConfig) -> list[str]:
    """Make it champion where the gate says so, judged against the champion of now; a line a thing done.

    Where it is not promoted it is the challenger. Where it is, no other version of the sweep is: they were
    weighed and found worse. Doing it again changes nothing. Raises Moved when others move it all the time.
    """
    said: list[str] = []

    def attempt() -> None:
        said.clear()
        with registry_lock(chosen.name):
            said.extend(_settle(chosen, gate))

    again_if_moved(attempt)
    return said


def _settle(chosen: Recommended, gate: GateConfig) -> list[str]:
    client, name, number = MlflowClient(), chosen.name, chosen.version
    said = repair(client, name, is_intact)
    now = standing(client, name)
    if number != now.champion:
        version = client.get_model_version(name, number)
        if when := rolled_back_of(client, version):
            return [*said, f"{name} v{number} is recommended; it was rolled back on {when} and stays so"]
        if why := _reason_to_wait(chosen, gate, now.champion):
            if now.challenger != number:
                client.set_registered_model_alias(name, CHALLENGER, number)
            return [*said, f"{name} v{number} is recommended and challenger: {why}"]
        promote(client, name, number, now.champion, is_intact)
        former = f", previous is v{now.champion}" if now.champion else ""
        said.append(f"{name} v{number} is recommended and champion{former}")
    challenger = standing(client, name).challenger
    if challenger in chosen.others:
        client.delete_registered_model_alias(name, CHALLENGER)
    return said


def _reason_to_wait(chosen: Recommended, gate: GateConfig, champion: str | None) -> str:
    """Why it is not promoted; empty where it is."""
    if gate.promote is Promote.manual:
        return "gate.promote=manual"
    verdict = verdict_on(
        Measured(chosen.evaluation, chosen.items, chosen.windows), gate, chosen.name, champion
    )
    if gate.mode is not GateMode.off and not verdict.passed:
        return f"the gate was missed: {'; '.join(map(str, verdict.misses))}"
    return ""
