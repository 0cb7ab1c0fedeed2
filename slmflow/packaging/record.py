"""What is written beside a LoggedModel: where it came from, and the key of its content."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlflow

from slmflow.files import write_json

if TYPE_CHECKING:
    from pathlib import Path


def metadata_of(manifest: dict[str, Any], fingerprint: str, *, precision: str) -> dict[str, Any]:
    """Metadata of a packaged model.

    `fingerprint` is the digest of all that is shipped (weights, code, requirements, configuration):
    two models with the same one answer the same. `left_out` is what a model that also sees or hears had
    besides its text part: tensors by the beginning of their names.
    """
    left_out = {"left_out": found} if (found := manifest.get("left_out")) else {}
    return left_out | {
        "source": manifest["origin"],
        "commit": manifest["commit"],
        "licence": manifest["licence"],
        "source_digest": manifest["digest"],
        "parameters": manifest["parameters"],
        "gguf": manifest.get("gguf"),
        "precision": precision,
        "fingerprint": fingerprint,
    }


def write_record(outputs: Path, candidate: str, model_id: str, metadata: dict[str, Any]) -> None:
    """Leave `logged.json`, which later steps read, and the fingerprint as a tag of the run."""
    write_json(outputs / "logged.json", {"candidate": candidate, "model_id": model_id, **metadata})
    mlflow.set_tag("slmflow.fingerprint", metadata["fingerprint"])
    print(f"  {candidate}: models:/{model_id}, fingerprint {metadata['fingerprint'][:12]}")
