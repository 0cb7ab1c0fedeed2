"""The workflow: what `mlflow run .` runs, and the Hydra program of this project.

    mlflow run . --env-manager local -P model=tiny_phi3              # tiny, offline
    python driver.py model=tiny_phi3 gate.mode=warn                  # the same without MLflow's launcher
    python driver.py -m model=tiny_phi3 package.max_tokens=64,256    # a branch a value, shared steps once
    python driver.py --help                                          # every group and its choices
    python driver.py --cfg job model=tiny_phi3                       # the configuration; nothing is run

Each node is a step (`steps/`), an entry point of MLproject and a child run; each argument is the run that it
takes.
"""

from __future__ import annotations

import sys

from slmflow.workflow.graph import Node, node


def graph(with_pipeline: bool = True) -> Node:
    """From the weights to the registry.

    A finished ONNX model that does not name its base has no pipeline, and so no reference to be held against.
    """
    weights = node("fetch")
    onnx = node("log_onnx", export_run=node("export_onnx", fetch_run=weights))
    if not with_pipeline:
        return node("register", onnx_run=node("evaluate", logged_run=onnx))
    pipeline = node("log_pipeline", fetch_run=weights)
    reference = node("evaluate", logged_run=pipeline)
    measured = node("evaluate", logged_run=onnx, reference_run=reference)
    return node("register", onnx_run=measured, pipeline_run=reference)


def main(words: list[str]) -> int:
    """Show the configuration where Hydra is asked to, else run the graph; returns the exit status."""
    from slmflow.hydra_app import asks_hydra, show

    if asks_hydra(words):
        return show(words)
    from slmflow.workflow.shell import main as run

    return run("register", words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
