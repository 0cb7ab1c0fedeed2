"""How the rows of a table are asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from slmflow.config.ranges import in_range


class Engine(Enum):
    """Where the rows are answered."""

    auto = "auto"
    """Spark where one is configured (`master`, an active session, an input that it names), else embedded."""
    embedded = "embedded"
    spark = "spark"


@dataclass
class ScoreConfig:
    """Settings of `-e score`."""

    engine: Engine = Engine.auto
    prompt: str = ""
    """The column with the prompt; empty, with `messages` and `template` empty too: the column `prompt`."""
    messages: str = ""
    """The column with a chat, as a list or as JSON text."""
    template: str = ""
    """A prompt made of columns, such as `Summarise: {text}`; `{{` is a brace."""
    chat: bool = False
    """Whether a prompt or template is asked as a chat of one message of the user."""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    """Sampling; what is not given is the model's own default."""
    deterministic: bool = False
    """No batching, no reuse of prefixes, seed 0 unless given: the same on every engine, in any order."""
    rows: int = 256
    """Of a partition: what is scored again after a crash, at most, for each process."""
    processes: int = 0
    """That hold a model each; 0: one for four cores. The embedded engine's."""
    prefix: str = ""
    """Of the columns of the answer, where the input has columns of their names."""
    master: str = ""
    """Spark's, such as local[4] or spark://host:7077; empty: the active session, or what is configured."""
    spark: dict[str, str] = field(default_factory=dict)
    """Spark's configuration: `+score.spark={spark.executor.memory: 8g}`."""

    def __post_init__(self) -> None:
        in_range("score.rows", self.rows, 1, 1_000_000)
        in_range("score.processes", self.processes, 0, 1024)
        for name, low, high in (("max_tokens", 1, 2**31 - 1), ("temperature", 0.0, 2.0), ("top_p", 0.0, 1.0)):
            if (value := getattr(self, name)) is not None:
                in_range(f"score.{name}", value, low, high)
        given = [name for name in ("prompt", "messages", "template") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"score.{given[0]} and score.{given[1]} exclude each other")
        if self.chat and self.messages:
            raise ValueError("score.chat is for a prompt or a template: score.messages is a chat already")
