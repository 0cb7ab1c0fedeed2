"""Compile requirements*.in, and those of environments/, to pinned files, and stamp conda.yaml.

    make lock               # pins that still fit stay as they are
    make lock UPGRADE=1     # every indirect dependency at its newest

uv resolves for every platform at once (markers, no hashes). Two things are then mended:

* torch is pinned to its public version: a resolver that sees a CPU build on disk would pin
  `2.13.0+cpu`, which only that machine can install;
* the CUDA libraries that PyPI's Linux build of torch pulls in are left to torch's own exact pins, so
  that a CPU build installs without 3 GB of them.

conda keys its environment on the text of conda.yaml alone, so the digest of requirements.txt is
written into it as a comment: a changed pin then makes a new environment.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CUDA_LIBRARIES = re.compile(r"^(nvidia-|cuda-|triton\b)")
DIGEST_LINE = re.compile(r"^# requirements\.txt sha256: .*$", re.MULTILINE)
HEADER = "# Made by `make lock` from {source}: edit that file, not this one.\n"


def mend(compiled: str) -> str:
    """The compiled pins without CUDA libraries and with torch at its public version."""
    lines: dict[str, None] = {}  # an ordered set: uv forks torch by platform into equal lines
    for line in compiled.splitlines():
        if CUDA_LIBRARIES.match(line):
            continue
        if line.startswith("torch=="):
            line = re.sub(r"^(torch==[^+ ;]+).*$", r"\1", line)
        lines[line] = None
    return "\n".join(lines) + "\n"


def stamp(conda_yaml: str, requirements: bytes) -> str:
    """conda.yaml with the digest line that belongs to these requirements."""
    digest = hashlib.sha256(requirements).hexdigest()
    return DIGEST_LINE.sub(f"# requirements.txt sha256: {digest}", conda_yaml)


def compile_pins(name: str, prefer: str, words: list[str]) -> None:
    """Resolve `name`.in with uv, universally for Python 3.11 and later, into `name`.txt.

    Its own pins stay where they fit, and those of the text `prefer` before them.
    """
    source, target = f"{name}.in", ROOT / f"{name}.txt"
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", *words]
    command += ["--python-version", "3.11", "--no-annotate", "--no-header", source]
    own = target.read_text() if target.exists() else ""
    known = {line.partition("==")[0] for line in prefer.splitlines()}
    kept = [line for line in own.splitlines() if line.partition("==")[0] not in known]
    with tempfile.TemporaryDirectory() as folder:  # uv prefers the pins of the file that it writes
        compiled = Path(folder) / target.name
        compiled.write_text("\n".join([*prefer.splitlines(), *kept]))
        subprocess.run([*command, "--output-file", str(compiled)], cwd=ROOT, check=True)
        pins = compiled.read_text()
    target.write_text(HEADER.format(source=source) + mend(pins))


def main() -> None:
    """Write the requirement files and the stamp."""
    for name in ("requirements", "requirements-dev", "requirements-spark"):
        compile_pins(name, "", sys.argv[1:])
    main_pins = (ROOT / "requirements.txt").read_text()
    for environment in sorted((ROOT / "environments").iterdir()):
        # Distributions of equal version are linked from the main environment, not fetched again.
        compile_pins(f"environments/{environment.name}/requirements", main_pins, [])
    conda = ROOT / "conda.yaml"
    conda.write_text(stamp(conda.read_text(), (ROOT / "requirements.txt").read_bytes()))


if __name__ == "__main__":
    main()
