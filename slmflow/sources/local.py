"""Weights in a folder on this machine, or one GGUF file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from slmflow.errors import SlmflowError
from slmflow.sources.manifest import Taken, is_data, is_pickle

if TYPE_CHECKING:
    from slmflow.config import LocalSource


def take(source: LocalSource, folder: Path) -> Taken:
    """Copy the folder's data here: no code, pickles or subfolders.

    Copied, not linked: the files stay the user's to change. Raises SlmflowError when the path does not
    exist or is a file of another kind.
    """
    folder.mkdir(parents=True)
    for path in files_of(source):
        shutil.copyfile(path, folder / path.name)
    return Taken(folder, f"local:{Path(source.path).name}")


def files_of(source: LocalSource) -> list[Path]:
    """The files that would be taken. Raises SlmflowError when the path is neither a folder nor a GGUF."""
    path = Path(source.path).expanduser().resolve()
    if path.is_file() and path.suffix.lower() == ".gguf":
        return [path]
    if path.is_dir():
        return data_in(path)
    raise SlmflowError(f"model.source.path={source.path}: neither a folder nor a .gguf file")


def data_in(folder: Path) -> list[Path]:
    """The data files at the top of a folder; pickles only where there are no other weights.

    They are kept in that case so that the refusal can name them.
    """
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    data = [path for path in files if is_data(path.name)]
    if not any(path.suffix in (".safetensors", ".gguf", ".onnx") for path in data):
        data += [path for path in files if is_pickle(path.name)]
    return data
