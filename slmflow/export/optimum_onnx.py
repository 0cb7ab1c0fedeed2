"""optimum's exporter in an environment of its own: the traced graph of transformers 4, fp32 with past.

optimum-onnx needs a transformers older than the project's, so `environments/optimum/export.py` runs beside
this process. Its graph is judged here, by today's library.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import distributions
from typing import TYPE_CHECKING

from slmflow.environments.exporters import FOLDER, exporter_environment
from slmflow.environments.installer import last_line
from slmflow.errors import SlmflowError
from slmflow.export.older_reader import refuse_what_it_would_misread
from slmflow.export.traced_graph import Names, complete, genai_config

if TYPE_CHECKING:
    from pathlib import Path

    from slmflow.config import OptimumExport
    from slmflow.export import Codes

NAMES = Names("past_key_values.%d.key", "past_key_values.%d.value", "present.%d.key", "present.%d.value")


def export(
    config: OptimumExport, source: Path, codes: Codes | None, folder: Path, scratch: Path
) -> dict[str, str]:
    """Trace the model, and describe the graph so that the generate() API can run it.

    Raises SlmflowError where the older transformers would misread the folder, and where the exporter fails.
    """
    refuse_what_it_would_misread(config.environment, source)
    description = genai_config(source, NAMES)
    made = exporter_environment(config.environment)
    command = [
        str(made.python),
        "-I",
        str(FOLDER / config.environment / "export.py"),
        str(source),
        str(folder),
    ]
    done = subprocess.run(
        command,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        print(done.stdout, file=sys.stderr, flush=True)
        raise SlmflowError(f"exporter {config.environment} failed: {last_line(done.stdout)}")
    complete(source, folder, description)
    inside = [str(path) for path in made.folder.glob("lib/python*/site-packages")]
    versions = {it.name: it.version for it in distributions(path=inside)}
    return {name: versions[name] for name in ("optimum", "optimum-onnx", "transformers")}
