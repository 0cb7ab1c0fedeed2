"""How long passes take on this machine, learnt while it works: how much of a prompt a budget is good for."""

from __future__ import annotations

CHUNK = 64
"""Tokens of a prompt that are read at once while nobody waits for decoding, and by `deterministic`."""
SMALL_CHUNK = 8
"""The fewest that are read while others decode, and the unit of all other chunks."""
SHARE = 2.0
"""Reading prompts may take this many times as long as a step of decoding."""
FIRST_STEP, FIRST_TOKEN = 0.02, 0.005
"""Seconds assumed for a step of decoding, and for a token of a prompt, before they were measured."""
NEWEST = 0.2
"""Weight of the newest measurement in the running means."""


class Pace:
    """Seconds of a pass over `n` tokens of a prompt are taken for `least + n * token`.

    Every pass reads all weights, however few its tokens: in a chunk of 8 a token costs 1.7 times what it
    costs in one of 32.
    """

    def __init__(self) -> None:
        self.step = FIRST_STEP
        """Of one token for everybody who decodes."""
        self._token = FIRST_TOKEN
        self._least: float | None = None

    def stepped(self, seconds: float) -> None:
        """A step of decoding was made."""
        self.step += NEWEST * (seconds - self.step)
        self._least = min(seconds, self._least or seconds)

    def read(self, tokens: int, seconds: float) -> None:
        """A chunk of a prompt was read."""
        seen = max(seconds - (self._least or 0.0), 0.0) / tokens
        self._token += NEWEST * (seen - self._token)

    @property
    def budget(self) -> float:
        """Seconds that reading may take between two steps."""
        return SHARE * self.step

    def chunk(self, seconds: float, left: int) -> int:
        """Tokens, of `left`, to read within `seconds`: 0 where they are too few for a small chunk.

        The rest of a prompt that is hardly longer is taken along: a pass of its own would cost more.
        """
        affordable = int((seconds - (self._least or 0.0)) / max(self._token, 1e-9))
        if affordable < SMALL_CHUNK:
            return 0
        if left <= affordable + SMALL_CHUNK and left <= CHUNK:
            return left
        return min(CHUNK, affordable // SMALL_CHUNK * SMALL_CHUNK)
