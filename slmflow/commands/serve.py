"""Serve a registered model over HTTP: OpenAI's API, MLflow's `/invocations`, metrics, and a chat page.

    mlflow run . -e serve --env-manager local -P model_uri=models:/smollm2-135m-onnx@champion

Tiny, offline, after `mlflow run . -P model=tiny_phi3`:

    mlflow run . -e serve --env-manager local -P model_uri=models:/tiny-phi3-onnx@champion -P port=0

Without `model_uri` it is the default model's `-onnx@champion`. `python -m slmflow.serving` is the same
without a run, with all settings; it needs no MLproject and less memory.
"""

from __future__ import annotations

import sys

from slmflow.errors import exit_status
from slmflow.words import read_words

PARAMETERS = ("model_uri", "host", "port", "engine")


def run(argv: list[str]) -> int:
    """Serve until told to end; returns the exit status. Raises SlmflowError for bad words."""
    from slmflow.serving.__main__ import run as serve
    from slmflow.serving.settings import parse_settings
    from slmflow.workflow.command import command_run

    words = read_words("serve", argv, PARAMETERS).typed
    if "model_uri" not in words:
        from slmflow.compose import compose

        words["model_uri"] = f"models:/{compose().config.model.name}-onnx@champion"
    given = [f"{name}={value}" for name, value in words.items()]
    parse_settings(given)  # a bad word makes no run
    with command_run("serve"):
        return serve(given)


if __name__ == "__main__":
    sys.exit(exit_status("serve", lambda: run(sys.argv[1:])))
