"""Bring the weights here, verified, with a manifest of every file.

    mlflow run . -e fetch --env-manager local -P model=phi3_mini_4k

Tiny, offline:

    mlflow run . -e fetch --env-manager local -P model=tiny_phi3

Leaves `source/` as published and `manifest.json`; for a GGUF file, or codes of AWQ or GPTQ, `huggingface/`,
the same weights as a Hugging Face folder, and for a model that also sees or hears its text part; with
`model.adapter.repo=` that with the adapter merged, and `adapter/`; for a prebuilt model that names its base
also `base/` and `base_manifest.json`, the weights that it was made from.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import mlflow

from slmflow.files import canonical_digest, gguf_files, write_json
from slmflow.sources import take
from slmflow.sources.huggingface import codes_in, make_huggingface
from slmflow.sources.manifest import build_manifest, enforce_digest, parameters_in
from slmflow.sources.text_part import left_out
from slmflow.workflow.shell import main

if TYPE_CHECKING:
    from pathlib import Path

    from slmflow.config import AdapterConfig, ModelConfig
    from slmflow.sources.manifest import Taken
    from slmflow.workflow.step import Context


def work(context: Context) -> None:
    """Fetch the model, and its base where it has one."""
    _fetch(context, context.config.model, "source", "manifest.json")
    if context.composition.base is not None:
        _fetch(context, context.composition.base, "base", "base_manifest.json")


def _fetch(context: Context, model: ModelConfig, folder: str, manifest_name: str) -> None:
    adapter = _adapter(context, model.adapter) if folder == "source" and model.adapter.given else None
    taken = take(model.source, context.scratch / folder)
    manifest = build_manifest(taken, model.licence)
    enforce_digest(manifest, model.source.digest)
    codes = codes_in(taken.folder)
    if codes == "gguf":
        _describe_gguf(manifest, taken.folder)
    digest = manifest["digest"]
    prefix = "" if folder == "source" else f"{folder}_"
    made = make_huggingface(taken.folder, context.outputs / f"{prefix}huggingface")
    place = {"source": folder, "made": f"{prefix}huggingface", "none": None}[made]
    if other := left_out(taken.folder) if made == "made" and not codes else {}:
        manifest["left_out"] = other
        print(
            f"  its text part is taken; left out: {', '.join(f'{name} ({n})' for name, n in other.items())}"
        )
    if codes or other:
        manifest["parameters"] = parameters_in(context.outputs / str(place))
    if adapter is not None:
        codes = None  # they know nothing of it
        place = _adapt(context, adapter, manifest, taken.folder if made == "source" else None)
    taken.folder.rename(context.outputs / folder)
    manifest["huggingface"], manifest["codes"] = place, codes
    write_json(context.outputs / manifest_name, manifest)
    size = sum(entry["size"] for entry in manifest["files"].values())
    print(f"  {taken.origin}: {len(manifest['files'])} files, {size / 1e6:.0f} MB, digest {digest[:12]}")
    pins = list(taken.pins)
    if model.source.kind == "hub" and not model.source.digest:
        pins.append(f"model.source.digest={digest}")
    if pins:
        if model is context.config.model:
            print(f"  to pin this content: {' '.join(f'-P {pin}' for pin in pins)}")
        else:
            place = f"conf/model/{context.config.model.base}.yaml"
            print(f"  to pin this content, put into {place}: {', '.join(pins)}")
    mlflow.set_tags({f"slmflow.{folder}.digest": digest, f"slmflow.{folder}.commit": str(taken.commit)})


def _describe_gguf(manifest: dict[str, Any], folder: Path) -> None:
    """Note what the file says of itself; its licence counts where the configuration knows none."""
    from slmflow.gguf.file import described
    from slmflow.gguf.header import read_gguf

    manifest["gguf"] = own = described(read_gguf(gguf_files(folder)[0]))
    if manifest["licence"] == "unknown" and own["licence"]:
        manifest["licence"] = own["licence"]
    print(f"  {own['file']}: {own['name']}, {own['quantisation']}")


def _adapter(context: Context, config: AdapterConfig) -> Taken:
    """The adapter, brought here and seen to be one that can be merged, before the weights are."""
    from slmflow.sources import adapter
    from slmflow.sources.adapter_changes import checked_config

    taken = adapter.take(config, context.scratch / "adapter")
    checked_config(taken.folder)
    enforce_digest(build_manifest(taken, ""), config.digest, "model.adapter.digest")
    return taken


def _adapt(context: Context, adapter: Taken, manifest: dict[str, Any], source: Path | None) -> str:
    """Merge the adapter into `huggingface/`, made of `source` or already there, and note it."""
    from slmflow.sources.adapter import merge

    described = build_manifest(adapter, manifest["licence"])
    whole = context.outputs / "huggingface"
    if source is None:
        source = whole.rename(context.scratch / "unadapted")
    merged = merge(source, adapter.folder, whole)
    adapter.folder.rename(context.outputs / "adapter")
    manifest["adapter"] = {name: described[name] for name in ("origin", "commit", "files", "digest")}
    manifest["digest"] = canonical_digest([manifest["digest"], described["digest"]])
    mlflow.set_tag("slmflow.adapter.digest", described["digest"])
    print(f"  {adapter.origin}: merged into {merged} weights")
    print(f"  to pin this adapter: -P model.adapter.digest={described['digest']}")
    return "huggingface"


if __name__ == "__main__":
    sys.exit(main("fetch"))
