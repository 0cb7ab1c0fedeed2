"""How production traces are asked again."""

from __future__ import annotations

from dataclasses import dataclass

from slmflow.config.ranges import absolute, in_range


@dataclass
class MonitoringConfig:
    """Settings of `-e evaluate -P traces=…`."""

    limit: int = 200
    """The newest requests, at most."""
    champion: str = ""
    """A model's URI; empty is `models:/<model.name>-onnx@champion`."""
    challenger: str = ""
    """A model's URI; empty is that alias's challenger, where there is one; `none` is none."""
    rules: str | None = None
    """The path of a YAML file of one's own rules of redaction, `NAME: regular expression`."""
    seed: int = 0
    """Of requests that sample and have none."""

    def __post_init__(self) -> None:
        in_range("monitoring.limit", self.limit, 1, 100_000)
        in_range("monitoring.seed", self.seed, 0, 2**63 - 1)
        if self.rules is not None:
            absolute("monitoring.rules", self.rules)
