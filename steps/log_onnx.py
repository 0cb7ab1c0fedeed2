"""Log the exported folder as a pyfunc model that carries its own runtime.

    mlflow run . -e log_onnx --env-manager local -P export_run=<id>

Tiny, offline (without an id it fetches and exports first):

    mlflow run . -e log_onnx --env-manager local -P model=tiny_phi3

Leaves the LoggedModel `onnx`, `logged.json`, and the two example requests.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from slmflow.files import canonical_digest, digests_under, write_json
from slmflow.workflow.shell import main

if TYPE_CHECKING:
    from slmflow.workflow.step import Context


def work(context: Context) -> None:
    """Log by path: nothing is loaded."""
    from slmflow.packaging.onnx_model import (
        EXAMPLES,
        MODELS,
        SHIPPED,
        log_onnx_model,
        model_config,
        requirements,
        signature,
    )
    from slmflow.packaging.record import metadata_of, write_record
    from slmflow.workflow import runs

    export_run = context.upstream["export_run"]
    export = runs.json_artifact(export_run, "export.json")
    fetch = runs.upstream_of(export_run, "fetch_run")
    manifest = runs.json_artifact(fetch, "manifest.json")
    model, package = context.config.model, context.config.package
    engines = export["proofs"]["engines"]
    code = {name: sha for name, sha in digests_under(MODELS).items() if re.match(SHIPPED, name)}
    fingerprint = canonical_digest(
        {
            "files": export["files"],
            "code": code,
            "requirements": requirements(export["provider"]),
            "signature": signature().to_dict(),
            "package": model_config(model.name, package, engines),
        }
    )
    metadata = metadata_of(manifest, fingerprint, precision=export["precision"])
    metadata["reference_digest"] = runs.reference_manifest(fetch)["digest"]
    metadata |= {"task": "llm/v1/chat", "exporter": export["exporter"], "export_options": export["options"]}
    folder = runs.artifact(export_run, "onnx")
    context.model_id = log_onnx_model(
        folder, model.name, package, context.scratch, metadata, export["provider"], engines
    )
    for name, example in EXAMPLES.items():
        write_json(context.outputs / "examples" / f"{name}.json", example)
    write_record(context.outputs, "onnx", context.model_id, metadata)


if __name__ == "__main__":
    sys.exit(main("log_onnx"))
