"""Log the weights as a transformers pipeline with the chat task.

    mlflow run . -e log_pipeline --env-manager local -P fetch_run=<id>

Tiny, offline (without an id it fetches first):

    mlflow run . -e log_pipeline --env-manager local -P model=tiny_phi3

Leaves the LoggedModel `pipeline` and `logged.json`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from slmflow.files import canonical_digest, digests_under
from slmflow.workflow.shell import main

if TYPE_CHECKING:
    from slmflow.workflow.step import Context


def work(context: Context) -> None:
    """Log by path: nothing is loaded."""
    from slmflow.packaging import pinned
    from slmflow.packaging.pipeline_model import REQUIREMENTS, dtype_of, log_pipeline_model
    from slmflow.packaging.record import metadata_of, write_record
    from slmflow.workflow import runs

    fetch = context.upstream["fetch_run"]
    manifest = runs.reference_manifest(fetch)
    huggingface = runs.huggingface(fetch)
    dtype = dtype_of(huggingface)
    fingerprint = canonical_digest(
        {"files": digests_under(huggingface), "requirements": pinned(*REQUIREMENTS), "dtype": dtype}
    )
    metadata = metadata_of(manifest, fingerprint, precision=dtype)
    metadata["reference_digest"] = manifest["digest"]
    name = context.config.model.name
    context.model_id = log_pipeline_model(huggingface, name, context.scratch, metadata)
    write_record(context.outputs, "pipeline", context.model_id, metadata)


if __name__ == "__main__":
    sys.exit(main("log_pipeline"))
