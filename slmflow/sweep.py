"""A sweep: several configurations from one line, as Hydra's multirun writes them."""

from __future__ import annotations

import itertools
import shlex
from dataclasses import dataclass, replace

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from slmflow.compose import Composition, compose, given_twice, key_of, split_overrides, sweep_of
from slmflow.config.applies import reason_against
from slmflow.errors import SlmflowError, first_line

FLAGS = ("-m", "--multirun")


@dataclass(frozen=True)
class Variant:
    """One configuration of a sweep."""

    label: str
    """What sets it apart from the others, e.g. `export=int4_cpu`; empty where there is only one."""
    composition: Composition
    left_out: tuple[str, ...] = ()
    """What the sweep does not run, as it cannot be made of the model: a sentence each."""


def variants(model: str = "", export: str = "", overrides: str = "") -> list[Variant]:
    """Every configuration that the words ask for, checked; one, unless they or an experiment sweep.

    With `-m`, an override with several values (`export=int8_cpu,int4_cpu`, `evaluate.windows=1,2`,
    `package.top_p=choice(0.5,1)`) stands for one configuration a value, and two such for their product.
    One that cannot be made of the model is left out, if others can. Raises SlmflowError with one line.
    """
    tokens = split_overrides(overrides)
    given_twice({"model": model, "export": export}, tokens)
    flagged = any(token in FLAGS for token in tokens)
    words = [f"{key}={value}" for key, value in (("model", model), ("export", export)) if value]
    words += [token for token in tokens if token not in FLAGS]
    fixed, swept = [], {}
    for token in words:
        values = _values(token)
        if values is None:
            fixed.append(token)
        elif flagged:
            swept[key_of(token)] = values
        else:
            raise SlmflowError(
                f"{token}: several values for one key: overrides='-m {token}' runs each of them"
            )
    asked = {*swept, *map(key_of, fixed)}
    if any(token.startswith("+experiment=") for token in fixed):
        # What the user says wins over what the experiment sweeps.
        said = {key_of(token) for token in fixed}
        params = {key: f"{key}={text}" for key, text in sweep_of(fixed).items() if key not in said}
        swept = {key: _values(token) or [token] for key, token in params.items()} | swept
    if not swept:
        return [Variant("", compose(overrides=shlex.join(fixed)))]
    found = []
    left_out: dict[str, str] = {}
    for chosen in itertools.product(*swept.values()):
        rest = [token for token in fixed if key_of(token) not in swept]
        label, composition = " ".join(chosen), compose(overrides=shlex.join([*rest, *chosen]))
        if why := reason_against(composition.config, guess="export" not in asked):
            left_out[label] = why
        else:
            found.append(Variant(label, composition))
    if not found:
        label, why = next(iter(left_out.items()))
        raise SlmflowError(f"{label}: {why}: choose another export=")
    sentences = tuple(f"{label} is left out: {why}." for label, why in left_out.items())
    return [replace(variant, left_out=sentences) for variant in found]


def _values(token: str) -> list[str] | None:
    """The single-valued overrides that a sweeping one stands for; None for any other token."""
    try:
        (override,) = OverridesParser.create().parse_overrides([token])
    except OverrideParseException as error:
        raise SlmflowError(f"overrides: cannot read {token!r}: {first_line(error)}") from None
    if not override.is_sweep_override():
        return None
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_string_iterator()]
