"""Log the weights as a transformers pipeline with the chat task.

    mlflow run . -e log_pipeline --env-manager local -P fetch_run=<id>

Tiny, offline (without an id it fetches first):

    mlflow run . -e log_pipeline --env-manager local -P model=tiny_phi3

Leaves the LoggedModel `pipeline` and `logged.json`.
"""

from __future__ import annotations

import sys

from slmflow.files import canonical_digest, digests_under
from slmflow.packaging import pinned
from slmflow.packaging.pipeline_model import REQUIREMENTS, dtype_of, log_pipeline_model
from slmflow.packaging.record import log_record, metadata_of
from slmflow.sources.huggingface import huggingface_folder
from slmflow.workflow import runs
from slmflow.workflow.shell import Context, main


def work(context: Context) -> None:
    """Log by path: nothing is loaded."""
    fetch = context.upstream["fetch_run"]
    folder = "base" if context.composition.base else "source"
    manifest = runs.json_artifact(fetch, "base_manifest.json" if folder == "base" else "manifest.json")
    huggingface = huggingface_folder(runs.artifact(fetch, folder), context.scratch)
    dtype = dtype_of(huggingface)
    fingerprint = canonical_digest(
        {"files": digests_under(huggingface), "requirements": pinned(*REQUIREMENTS), "dtype": dtype}
    )
    metadata = metadata_of(manifest, fingerprint, precision=dtype)
    metadata["reference_digest"] = manifest["digest"]
    model_id = log_pipeline_model(huggingface, context.config.model.name, context.scratch, metadata)
    log_record("pipeline", model_id, metadata)


if __name__ == "__main__":
    sys.exit(main("log_pipeline", work))
