"""Weights in a folder on this machine, or one GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slmflow.errors import SlmflowError
from slmflow.files import files_under, link_or_copy
from slmflow.sources.manifest import Taken, is_pickle

if TYPE_CHECKING:
    from slmflow.config import LocalSource


def take(source: LocalSource, folder: Path) -> Taken:
    """Link or copy the folder's files here, without pickles, code and hidden files.

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
    """Link or copy what is data in `source` to `folder`; pickles only where there is nothing else.

    They are kept in that case so that the refusal can name them.
    """
    files = [path for path in files_under(source) if not _skipped(path.relative_to(source))]
    data = [path for path in files if not is_pickle(path.name)]
    folder.mkdir(parents=True)
    for path in data if any(p.suffix in (".safetensors", ".gguf", ".onnx") for p in data) else files:
        link_or_copy(path, folder / path.relative_to(source))


def _skipped(path: Path) -> bool:
    return path.suffix in (".py", ".pyc") or any(part.startswith(".") for part in path.parts)
