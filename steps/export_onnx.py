"""Export the fetched weights to a genai folder, and prove that it is the same model.

    mlflow run . -e export_onnx --env-manager local -P export=int4_cpu -P fetch_run=<id>

Tiny, offline (without an id it fetches first):

    mlflow run . -e export_onnx --env-manager local -P model=tiny_phi3

Leaves `onnx/` and `export.json`: exporter, options, sha256 of every file, and what was proven.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from slmflow.files import digests_under, size_under, write_json
from slmflow.workflow.shell import main

if TYPE_CHECKING:
    from slmflow.workflow.step import Context


def work(context: Context) -> None:
    """Export and prove."""
    from slmflow.export import Codes, export_folder
    from slmflow.export.preflight import refuse_what_cannot_end
    from slmflow.export.proofs import arithmetic, prove
    from slmflow.workflow import runs

    config = context.config.export
    fetch = context.upstream["fetch_run"]
    prebuilt = config.exporter == "prebuilt"
    huggingface = None if prebuilt and not context.composition.base else runs.huggingface(fetch)
    weights = runs.artifact(fetch, "source") if huggingface is None or prebuilt else huggingface
    kind = runs.json_artifact(fetch, "manifest.json").get("codes")
    codes = Codes(kind, runs.artifact(fetch, "source")) if kind else None
    if huggingface is not None and not prebuilt:
        published = size_under(codes.folder) if codes else 0
        refuse_what_cannot_end(config, huggingface, context.scratch, published)
    folder = context.scratch / "onnx"
    options = export_folder(config, weights, folder, context.scratch, codes)
    proofs = prove(folder, huggingface, arithmetic(config))
    folder.rename(context.outputs / "onnx")
    folder = context.outputs / "onnx"
    description = {
        "exporter": config.exporter,
        "precision": config.precision.value,
        "provider": config.provider.value,
        "options": options,
        "files": digests_under(folder),
        "proofs": proofs,
    }
    write_json(context.outputs / "export.json", description)
    size = f"{size_under(folder) / 1e6:.0f} MB"
    shown = {name: proof for name, proof in proofs.items() if name != "graph"}
    print(f"  {config.exporter} {arithmetic(config).value}: {size}; proven: {shown}")


if __name__ == "__main__":
    sys.exit(main("export_onnx"))
