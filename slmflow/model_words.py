"""What `model=` and `adapter=` may be: a name of `conf/model/`, a path, a repository, something in MLflow."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from slmflow.errors import SlmflowError
from slmflow.overrides import CONF, quoted

REPOSITORY = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+?))?(?::(?P<file>[\w./-]+))?")
"""`org/name`, its branch, tag or commit, and one of its GGUF files or what such a file's name ends with."""
MLFLOW = ("models:/", "runs:/")
FORMS = "a folder, org/name[@revision], models:/name@alias or runs:/id/path"
WEIGHTS = ("*.safetensors", "*.gguf", "genai_config.json", "config.json", "adapter_config.json")


def _path(word: str) -> Path:
    return Path(os.path.expanduser(word))


def names() -> list[str]:
    """The names of `conf/model/`."""
    return sorted(path.stem for path in (CONF / "model").glob("*.yaml"))


def split_choices(text: str) -> list[str]:
    """The words between commas; an existing path is one word, whatever it holds."""
    if "," not in text or _path(text).exists():
        return [text]
    return text.split(",")


def anchored(name: str, text: str, folder: Path | None) -> str:
    """The words of `model=` or `adapter=` with every relative path made absolute by `folder`.

    Raises SlmflowError for a word that may be two things, and for a path where `folder` is None: not known.
    """
    if "," in text and folder is not None and (folder / text).exists():
        return str(folder / text)
    return ",".join(_anchored(name, word, folder) for word in split_choices(text))


def _anchored(name: str, word: str, folder: Path | None) -> str:
    if not word or word.startswith(MLFLOW) or _path(word).is_absolute():
        return word
    by_shape = word.startswith(("./", "../")) or word in (".", "..")
    by_shape = by_shape or (word.lower().endswith(".gguf") and ":" not in word)
    if folder is None:
        if by_shape:
            raise SlmflowError(
                f"{name}={word}: give an absolute path: where this was typed is not known here"
            )
        return word
    place = folder / word
    if by_shape:
        if not place.exists():
            raise SlmflowError(f"{name}={word}: there is no {place}")
        return str(place.resolve())
    if not _holds_weights(place):
        return word
    other = ""
    if name == "model" and word in names():
        other = f"a name of conf/model/: write ./{word} for the folder, or type this elsewhere"
    elif REPOSITORY.fullmatch(word):
        other = f"may be a repository on the hub: write ./{word} for the folder, {word}@main for the hub"
    if other:
        raise SlmflowError(f"{name}={word}: is a folder here, {place}, and {other}")
    return str(place.resolve())


def _holds_weights(place: Path) -> bool:
    return place.is_dir() and any(True for pattern in WEIGHTS for _ in place.glob(pattern))


def model_tokens(word: str) -> list[str]:
    """The Hydra overrides that one word of `model=` stands for. Raises SlmflowError for an unknown word."""
    if word in names():
        return [f"model={word}"]
    if word.startswith(MLFLOW):
        return ["model=mlflow", f"model.source.uri={quoted(word)}"]
    if _path(word).is_absolute():
        path = _path(word)
        if not path.is_dir() and not (path.is_file() and path.suffix.lower() == ".gguf"):
            raise SlmflowError(f"model={word}: there is no such folder or .gguf file")
        return ["model=local", f"model.source.path={quoted(str(path))}"]
    if found := REPOSITORY.fullmatch(word):
        tokens = ["model=hub", f"model.source.repo={found['repo']}"]
        if found["revision"]:
            tokens.append(f"model.source.revision={found['revision']}")
        if file := found["file"]:
            pattern = file if file.lower().endswith(".gguf") else f"*{file}.gguf"
            tokens.append(f"model.source.file={quoted(pattern)}")
        return tokens
    close = difflib.get_close_matches(word, names(), n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise SlmflowError(
        f"model={word} is unknown: {hint}allowed are {', '.join(names())}, a .gguf file, {FORMS}; a GGUF "
        "repository with org/name:Q4_K_M"
    )


def adapter_tokens(word: str) -> list[str]:
    """The same of `adapter=`: a LoRA adapter that is merged into the model."""
    if word.startswith(MLFLOW):
        return [f"model.adapter.uri={quoted(word)}"]
    if _path(word).is_absolute():
        if not _path(word).is_dir():
            raise SlmflowError(f"adapter={word}: there is no such folder")
        return [f"model.adapter.path={quoted(str(_path(word)))}"]
    found = REPOSITORY.fullmatch(word)
    if found is None or found["file"]:
        raise SlmflowError(f"adapter={word} is unknown: give {FORMS}")
    revision = [f"model.adapter.revision={found['revision']}"] if found["revision"] else []
    return [f"model.adapter.repo={found['repo']}", *revision]
