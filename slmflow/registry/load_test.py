"""Whether a packaged model loads and answers where only its requirements are installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slmflow.config import LoadTest
from slmflow.environments.installer import last_line
from slmflow.environments.maker import Purpose, environment
from slmflow.errors import SlmflowError

if TYPE_CHECKING:
    from slmflow.config import GateConfig

PROBE = Path(__file__).with_name("probe.py")
PASSED = "passed"
"""Folder in an environment with a file for each content that passed in it, named by its fingerprint."""
KEPT = ("LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
"""Variables that the fresh process keeps of this one's."""


REQUIREMENTS = Purpose(
    "the packaged requirements",
    "correct pip's configuration, or choose gate.load_test=here, which needs none",
)
PROBE_SECONDS = 1800.0
"""A model that has not answered by then does not load."""


@dataclass(frozen=True)
class Loaded:
    """What became of a load test that was not missed."""

    mode: str
    """`linked` or `installed` (an environment of the requirements alone), `here`, or `off`."""
    passed: bool
    """False where nothing was tested."""
    words: str
    """The same for people."""

    def as_dict(self) -> dict[str, str | bool]:
        """For `gate.json`."""
        return asdict(self)


def load_test(folder: Path, fingerprint: str, gate: GateConfig) -> Loaded:
    """Load the model and ask for a few tokens in a fresh process; returns what was done.

    A content that passed in an environment passes there without being asked again. Raises SlmflowError
    when the environment cannot be made, or the model does not load or answer in it.
    """
    if gate.load_test is LoadTest.off:
        return Loaded("off", False, "not tested")
    if gate.load_test is LoadTest.here:
        _probe(Path(sys.executable), folder, "a fresh process of this environment")
        return Loaded("here", True, "loads in a fresh process of this environment")
    linked = gate.load_test is LoadTest.linked
    text = (folder / "requirements.txt").read_text()
    made = environment(text, REQUIREMENTS, is_locked=False, linked=linked)
    passed = made.folder / PASSED / fingerprint
    if not passed.exists():
        _probe(made.python, folder, f"an environment of its requirements alone ({made.folder})")
        passed.parent.mkdir(exist_ok=True)
        passed.touch()
    how = "installed"
    if linked:
        how = "linked from here" + (f" but for {', '.join(made.installed)}" if made.installed else "")
    mode = "installed" if made.installed else "linked"
    return Loaded(mode, True, f"loads in an environment of its requirements alone, {how}")


def _probe(python: Path, folder: Path, where: str) -> None:
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    with tempfile.TemporaryDirectory(prefix="slmflow-probe-") as home:
        own = {
            "PATH": "/usr/bin:/bin",
            "HOME": home,
            "HF_HUB_OFFLINE": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        }
        command = [str(python), "-I", str(PROBE), str(folder.resolve())]
        try:
            done = subprocess.run(
                command,
                cwd=home,
                env={**kept, **own},
                capture_output=True,
                text=True,
                timeout=PROBE_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise SlmflowError(
                f"the packaged model did not load and answer within {PROBE_SECONDS:g} seconds in {where}, "
                "nothing is registered"
            ) from None
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr, flush=True)
        raise SlmflowError(
            f"the packaged model does not load and answer in {where}, nothing is registered: "
            f"{last_line(done.stderr)}"
        )
