"""Bring the weights here, verified, with a manifest of every file.

    mlflow run . -e fetch --env-manager local -P model=phi3_mini_4k

Tiny, offline:

    mlflow run . -e fetch --env-manager local -P model=tiny_phi3

Leaves `source/` as published and `manifest.json`, and for a GGUF file `huggingface/`, the same weights as
a Hugging Face folder; for a prebuilt model that names its base also `base/` and `base_manifest.json`, the
weights that it was made from.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import mlflow

from slmflow.files import write_json
from slmflow.sources import take
from slmflow.sources.huggingface import make_huggingface
from slmflow.sources.manifest import build_manifest, enforce_digest
from slmflow.workflow.shell import main

if TYPE_CHECKING:
    from slmflow.config import ModelConfig
    from slmflow.workflow.step import Context


def work(context: Context) -> None:
    """Fetch the model, and its base where it has one."""
    _fetch(context, context.config.model, "source", "manifest.json")
    if context.composition.base is not None:
        _fetch(context, context.composition.base, "base", "base_manifest.json")


def _fetch(context: Context, model: ModelConfig, folder: str, manifest_name: str) -> None:
    taken = take(model.source, context.scratch / folder)
    manifest = build_manifest(taken, model.licence)
    enforce_digest(manifest, model.source.digest)
    prefix = "" if folder == "source" else f"{folder}_"
    made = make_huggingface(taken.folder, context.outputs / f"{prefix}huggingface")
    taken.folder.rename(context.outputs / folder)
    manifest["huggingface"] = {"source": folder, "made": f"{prefix}huggingface", "none": None}[made]
    write_json(context.outputs / manifest_name, manifest)
    size = sum(entry["size"] for entry in manifest["files"].values())
    files, digest = len(manifest["files"]), manifest["digest"]
    print(f"  {taken.origin}: {files} files, {size / 1e6:.0f} MB, digest {digest[:12]}")
    pins = list(taken.pins)
    if model.source.kind == "hub" and not model.source.digest:
        pins.append(f"model.source.digest={digest}")
    if pins:
        place = (
            "overrides" if model is context.config.model else f"conf/model/{context.config.model.base}.yaml"
        )
        print(f"  to pin this content, put into {place}:")
        print("\n".join(f"    {pin}" for pin in pins))
    mlflow.set_tags(
        {f"slmflow.{folder}.digest": manifest["digest"], f"slmflow.{folder}.commit": str(taken.commit)}
    )


if __name__ == "__main__":
    sys.exit(main("fetch"))
