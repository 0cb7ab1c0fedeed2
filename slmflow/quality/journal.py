"""What an evaluation has measured so far: it outlives a crash, and goes when the evaluation is whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from slmflow.files import cache_folder, write_text
from slmflow.quality.fidelity import Positions


class Journal:
    """Figures by window, kept under the key of what is measured, so that nothing else ever reads them."""

    def __init__(self, key: str) -> None:
        self._place = cache_folder() / "evaluations" / key

    @property
    def folder(self) -> Path:
        """Its folder, made when it is first asked for."""
        self._place.mkdir(parents=True, exist_ok=True)
        return self._place

    def items(self, count: int) -> Path:
        """The file to which rows of so many task items are appended: who is asked together depends on it."""
        return self.folder / f"items-{count}.jsonl"

    def logprobs(self, windows_digest: str) -> Path:
        """The file of the reference's log-probabilities of some windows."""
        return self.folder / f"logprobs-{windows_digest[:16]}.npy"

    @property
    def decided(self) -> int | None:
        """How many windows or items an interrupted evaluation began to ask; None where none did."""
        try:
            return int((self._place / "asked").read_text())
        except (OSError, ValueError):
            return None

    def decide(self, count: int) -> None:
        """Note how many are asked, so that the evaluation asks them when it goes on."""
        write_text(self.folder / "asked", str(count))

    def positions(self, name: str) -> Positions | None:
        """What was found at the positions of a window before; None when it was not reached."""
        try:
            with np.load(self._path(name)) as held:
                return Positions(held["kl"], held["same_top1"], held["reference"], held["candidate"])
        except (OSError, ValueError, KeyError, BadZipFile):  # not there, or torn by a power cut
            return None

    def keep(self, name: str, found: Positions) -> None:
        """Write a window's figures, whole or not at all."""
        part = self.folder / f"{name}.part"
        with part.open("wb") as file:
            np.savez(
                file,
                kl=found.kl,
                same_top1=found.same_top1,
                reference=found.reference,
                candidate=found.candidate,
            )
        os.replace(part, self._path(name))

    def close(self) -> None:
        """Forget everything: the evaluation is whole."""
        shutil.rmtree(self._place, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self._place / f"{name}.npz"
