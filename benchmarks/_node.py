"""llama.cpp by node-llama-cpp: its ids and logits, and speeds that are *its loop's*, not llama.cpp's.

Each token goes through JavaScript, which costs llama.cpp about a third of its decoding (58 to 66 tokens/s
where its own `llama-bench` says 82 to 119 for the same file on the same machine). So no row with this peer
has a goal.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from slmflow.files import write_json
from slmflow.workflow.closure import ROOT

PACKAGE = "node-llama-cpp@3.22.1"


def there() -> bool:
    """Whether npm is there; says in one line what is left out where it is not."""
    found = shutil.which("npm") is not None
    if not found:
        print("npm is not on PATH: what stands beside node-llama-cpp is left out", file=sys.stderr)
    return found


def install(folder: Path) -> None:
    """The prebuilt binary, from npm, into a folder."""
    command = ["npm", "install", "--silent", "--ignore-scripts", "--prefix", str(folder), PACKAGE]
    subprocess.run(command, check=True, stdout=sys.stderr)


def ask(script: str, request: dict[str, Any], installed: Path) -> dict[str, Any]:
    """What a script beside this one (`llama_cpp`, `llama_logprobs`) answers, in a process of its own."""
    path = write_json(installed / "request.json", request)
    command = ["node", str(ROOT / "benchmarks" / f"{script}.mjs"), str(path)]
    done = subprocess.run(command, cwd=installed, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))
