"""Export the fetched weights to a genai folder, and prove that it is the same model.

    mlflow run . -e export_onnx --env-manager local -P export=int4_cpu -P fetch_run=<id>

Tiny, offline (without an id it fetches first):

    mlflow run . -e export_onnx --env-manager local -P model=tiny_phi3

Leaves `onnx/` and `export.json`: exporter, options, sha256 of every file, and what was proven.
"""

from __future__ import annotations

import sys

import mlflow

from slmflow.config import PrebuiltExport
from slmflow.export import export_folder
from slmflow.export.proofs import prove
from slmflow.files import digests_under, size_under, write_json
from slmflow.sources.huggingface import huggingface_folder
from slmflow.workflow import runs
from slmflow.workflow.shell import Context, main


def work(context: Context) -> None:
    """Export, prove, and only then log the folder."""
    config = context.config.export
    fetch = context.upstream["fetch_run"]
    source = runs.artifact(fetch, "source")
    folder = context.scratch / "onnx"
    # A made Hugging Face folder is made once, for the exporter and for the proofs.
    if isinstance(config, PrebuiltExport):
        huggingface = runs.artifact(fetch, "base") if context.composition.base else None
        weights = source
    else:
        huggingface = weights = huggingface_folder(source, context.scratch)
    options = export_folder(config, weights, folder, context.scratch)
    proofs = prove(folder, huggingface, config.precision)
    mlflow.log_artifacts(str(folder), "onnx")
    description = {
        "exporter": config.exporter,
        "precision": config.precision.value,
        "provider": config.provider.value,
        "options": options,
        "files": digests_under(folder),
        "proofs": proofs,
    }
    mlflow.log_artifact(str(write_json(context.scratch / "export.json", description)))
    print(
        f"  {config.exporter} {config.precision.value}: {size_under(folder) / 1e6:.0f} MB; proven: {proofs}"
    )


if __name__ == "__main__":
    sys.exit(main("export_onnx", work))
