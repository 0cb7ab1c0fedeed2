"""A sweep: several configurations from one line, as Hydra's multirun writes them."""

from __future__ import annotations

import itertools
import shlex
from dataclasses import dataclass, replace

from slmflow.compose import GROUP_PARAMETERS, Composition, compose, given_twice
from slmflow.config.applies import reason_against
from slmflow.errors import SlmflowError
from slmflow.hydra_compose import sweep_of
from slmflow.model_words import model_tokens, split_choices
from slmflow.overrides import FLAGS, added, key_of, parsed, split_overrides

Choice = tuple[str, list[str]]
"""One value of a key as a label, and the overrides that it stands for."""


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

    `model` is what `-P model=` takes (`slmflow.model_words`), its paths absolute. Several values of `model`
    or `export` (`int8_cpu,int4_cpu`), and with `-m` of any override (`evaluate.windows=1,2`,
    `package.top_p=choice(0.5,1)`), stand for one configuration a value, and two such for their product. One
    that cannot be made of the model is left out, if others can. Raises SlmflowError with one line.
    """
    tokens = split_overrides(overrides)
    given_twice({"model": model, "export": export}, tokens)
    flagged = any(token in FLAGS for token in tokens)
    asked = {"model": split_choices(model), "export": export.split(",")}
    axes = {name: _choices(name, values) for name, values in asked.items() if values != [""]}
    fixed: list[str] = []
    for token in tokens:
        if token in FLAGS:
            continue
        key, values = key_of(token), _values(token)
        named = key == "model" and not token.startswith("~") and token.partition("=")[2] not in ("", "null")
        if values is None and not named:
            fixed.append(token)
        elif values is None or flagged or key in GROUP_PARAMETERS:
            axes[key] = _choices(key, values or [token.partition("=")[2]])
        else:
            raise SlmflowError(
                f"{token}: several values for one key: overrides='-m {token}' runs each of them"
            )
    said = {*axes, *map(key_of, fixed)}
    if any(key_of(token) == "experiment" for token in fixed):
        # What the user says wins over what the experiment sweeps.
        alone = [token for choices in axes.values() if len(choices) == 1 for token in choices[0][1]]
        params = {key: text for key, text in sweep_of([*alone, *fixed]).items() if key not in said}
        swept = {key: _values(f"{key}={text}") or [text] for key, text in params.items()}
        axes = {key: _choices(key, values) for key, values in swept.items()} | axes
    fixed = [token for choices in axes.values() if len(choices) == 1 for token in choices[0][1]] + fixed
    axes = {key: choices for key, choices in axes.items() if len(choices) > 1}
    if not axes:
        return [Variant("", compose(overrides=shlex.join(fixed)))]
    return _product(fixed, list(axes.values()), guess="export" not in said)


def one_variant(model: str = "", export: str = "", overrides: str = "") -> Composition:
    """The configuration that words for one thing ask for. Raises SlmflowError where they sweep."""
    found = variants(model, export, overrides)
    if len(found) > 1:
        raise SlmflowError(f"{found[0].label}: give one value for each key: this is not done for several")
    return found[0].composition


def _product(fixed: list[str], axes: list[list[Choice]], *, guess: bool) -> list[Variant]:
    found = []
    left_out: dict[str, str] = {}
    for chosen in itertools.product(*axes):
        label = " ".join(name for name, _ in chosen)
        composition = compose(overrides=shlex.join([*fixed, *(token for _, own in chosen for token in own)]))
        if why := reason_against(composition.config, guess=guess):
            left_out[label] = why
        else:
            found.append(Variant(label, composition))
    if not found:
        label, why = next(iter(left_out.items()))
        raise SlmflowError(f"{label}: {why}: choose another export=")
    sentences = tuple(f"{label} is left out: {why}." for label, why in left_out.items())
    return [replace(variant, left_out=sentences) for variant in found]


def _choices(key: str, values: list[str]) -> list[Choice]:
    if "" in values:
        raise SlmflowError(f"{key}={','.join(values)}: there is nothing beside a comma")
    return [
        (f"{key}={value}", model_tokens(value) if key == "model" else [f"{key}={value}"]) for value in values
    ]


def _values(token: str) -> list[str] | None:
    """The values that a sweeping override stands for; None for any other."""
    if added(token):
        return None
    override = parsed(token)
    if not override.is_sweep_override():
        return None
    return [str(value) for value in override.sweep_string_iterator()]
