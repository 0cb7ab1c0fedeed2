"""Weights in a folder on this machine, or one GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slmflow.errors import SlmflowError
from slmflow.files import link_or_copy
from slmflow.sources.manifest import Taken, is_data, is_pickle

if TYPE_CHECKING:
    from slmflow.config import LocalSource


def take(source: LocalSource, folder: Path) -> Taken:
    """Link or copy the folder's files here, its data only: no code, pickles or subfolders.

    Raises SlmflowError when the path does not exist or is a file of another kind.
    """
    path = Path(source.path).expanduser().resolve()
    if path.is_file() and path.suffix == ".gguf":
        link_or_copy(path, folder / path.name)
    elif path.is_dir():
        gather(path, folder)
    else:
        raise SlmflowError(f"model.source.path={source.path}: neither a folder nor a .gguf file")
    return Taken(folder, f"local:{path.name}")


def gather(source: Path, folder: Path) -> None:
    """Link or copy the data files at the top of `source`; pickles only where there are no other weights.

    They are kept in that case so that the refusal can name them.
    """
    files = [path for path in sorted(source.iterdir()) if path.is_file()]
    data = [path for path in files if is_data(path.name)]
    if not any(path.suffix in (".safetensors", ".gguf", ".onnx") for path in data):
        data += [path for path in files if is_pickle(path.name)]
    folder.mkdir(parents=True)
    for path in data:
        link_or_copy(path, folder / path.name)
