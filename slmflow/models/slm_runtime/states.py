"""What a graph keeps of a row between two passes: keys and values by position, and states of fixed size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnxruntime as ort

from .engine import Description

GROW = {"key": True, "value": True, "conv": False, "recurrent": False}
"""The kinds of states by their names in genai_config.json, and whether they grow with each token."""


@dataclass(frozen=True)
class State:
    """One array of a row, in fp32: a pass takes it as `past` and gives it as `present`."""

    past: str
    present: str
    shape: tuple[int, ...]
    """Of one row; of one position (heads, head size) where it grows."""
    grows: bool

    @property
    def bytes(self) -> int:
        """Of one row, or of one position of it."""
        return 4 * math.prod(self.shape)

    def dimensions(self, rows: int, positions: int) -> tuple[int, ...]:
        """Of the array for so many rows."""
        if not self.grows:
            return (rows, *self.shape)
        heads, size = self.shape
        return (rows, heads, positions, size)


@dataclass(frozen=True)
class Feeds:
    """How a graph is fed and read."""

    states: tuple[State, ...]
    position_axes: int
    """Dimensions of its position ids: 2, 3 where there is one for each kind of input, 0 without them."""
    logits: str
    vocabulary: int

    @property
    def position_bytes(self) -> int:
        """Bytes of what grows, a position of a row."""
        return sum(state.bytes for state in self.states if state.grows)

    @property
    def row_bytes(self) -> int:
        """Bytes of what does not grow, a row."""
        return sum(state.bytes for state in self.states if not state.grows)


def feeds_of(session: ort.InferenceSession, of: Description) -> Feeds:
    """Read them off a session. Raises ValueError for a graph with an input that nobody here can feed."""
    arguments = {argument.name: argument for argument in session.get_inputs()}
    inputs, outputs = of.decoder["inputs"], of.decoder["outputs"]
    kinds = [kind for kind in GROW if f"past_{kind}_names" in inputs]
    states = []
    for layer in range(of.layers):
        for kind in kinds:
            past = inputs[f"past_{kind}_names"] % layer
            if past not in arguments:
                continue  # layers differ: some have no keys, others no convolution
            sizes = arguments[past].shape[1:]
            if GROW[kind]:
                # The graph may leave the heads and their size open: genai_config.json has them.
                sizes = [
                    size if isinstance(size, int) else known
                    for size, known in zip((sizes[0], sizes[2]), (of.heads, of.head_size), strict=True)
                ]
            shape = tuple(size if isinstance(size, int) else 0 for size in sizes)
            states.append(State(past, outputs[f"present_{kind}_names"] % layer, shape, GROW[kind]))
    refuse_other_inputs(session, states)
    axes = len(arguments["position_ids"].shape) if "position_ids" in arguments else 0
    return Feeds(tuple(states), axes, str(outputs["logits"]), of.vocabulary)


def refuse_other_inputs(session: ort.InferenceSession, states: list[State]) -> None:
    """Raise ValueError for a graph that cannot be fed: only ids, mask, positions, and states in fp32."""
    pasts = {state.past for state in states}
    for argument in session.get_inputs():
        if argument.name in pasts:
            if argument.type != "tensor(float)":
                raise ValueError(
                    f"the graph's {argument.name} is {argument.type}: engine=continuous has fp32 only"
                )
        elif argument.name not in ("input_ids", "attention_mask", "position_ids"):
            raise ValueError(f"the graph has an input {argument.name!r}, which engine=continuous cannot feed")
    if unsized := [state.past for state in states if 0 in state.shape]:
        raise ValueError(
            f"the graph does not say how large {unsized[0]} is, so engine=continuous cannot feed it"
        )
