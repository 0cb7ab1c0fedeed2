"""How a run is carried out; nothing here changes a result."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from slmflow.config.ranges import in_range


class Verify(Enum):
    """How hard the outputs of an earlier run are looked at before they are used again."""

    stamps = "stamps"
    """Size, time and inode; what differs is hashed."""
    full = "full"
    """Every byte is hashed."""


@dataclass
class DriverConfig:
    """Settings of the driver."""

    parallel: int = 2
    """Steps at a time, at most. Speed and memory are measured with no other step on the machine."""
    cache: bool = True
    """Whether finished steps of earlier runs are used again."""
    verify: Verify = Verify.stamps

    def __post_init__(self) -> None:
        in_range("driver.parallel", self.parallel, 1)
