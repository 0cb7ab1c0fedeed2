"""What a step leaves, indexed when it is whole, and believed later only where the index still agrees."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmflow import downloads
from slmflow.artifacts import folder_of, stored_json
from slmflow.errors import SlmflowError, first_line
from slmflow.files import canonical_digest, files_under, read_json, sha256_of, write_json
from slmflow.tracking import raise_problem, uploading

if TYPE_CHECKING:
    from slmflow.workflow.lookup import Found, Store

INDEX = "outputs.json"
INDEX_TAG = "slmflow.outputs"
"""Digest of every output's path, size and sha256: an index that was changed does not have it."""
DAMAGED_TAG = "slmflow.damaged"
"""What a later step found altered when it read it; such a run is not reused."""
MODEL = "model"
"""First part of the index's paths into a LoggedModel, which has a location of its own."""
ADDED_LATER = ("/registered_model_meta", ".pyc")
"""Files that may come into an indexed folder afterwards: MLflow's at registration, Python's at import."""

Index = dict[str, Any]
"""{"files": {path: {"sha256", "size", "mtime_ns", "inode"}}, "model": {"id", "location"} or null};
without time and inode where the store is remote."""


def publish(staged: Path, artifact_uri: str) -> dict[str, dict[str, Any]]:
    """Bring finished outputs into a run's artifacts: renamed where the store is local, else uploaded once.

    Returns the digest and size of each, for the index.
    """
    found: dict[str, dict[str, Any]] = {
        path.relative_to(staged).as_posix(): {"sha256": sha256_of(path), "size": path.stat().st_size}
        for path in files_under(staged)
    }
    target = folder_of(artifact_uri)
    if target is None:
        import mlflow

        with uploading():
            mlflow.log_artifacts(str(staged))
        for name, entry in found.items():
            downloads.keep(staged / name, entry["sha256"])
        return found
    for path in files_under(staged):
        place = target / path.relative_to(staged)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, place)
    return found


def build_index(
    published: dict[str, dict[str, Any]], artifact_uri: str, model: dict[str, str] | None
) -> Index:
    """The index of a run's artifacts, given what `publish` returned, and of its LoggedModel.

    Files of a local store become read-only: a hard link elsewhere shares them.
    """
    files = {}
    folder = folder_of(artifact_uri)
    for path, entry in published.items():
        files[path] = entry if folder is None else _entry(folder / path, entry["sha256"])
    if model is not None:
        location = folder_of(model["location"])
        if location is None:
            for path, size in listed(model["location"]).items():
                sha = downloads.digest_of(f"{model['location']}/{path}")
                files[f"{MODEL}/{path}"] = {"sha256": sha, "size": size}
        else:
            for file in files_under(location):
                entry = _entry(file, sha256_of(file))
                files[f"{MODEL}/{file.relative_to(location).as_posix()}"] = entry
    return {"files": files, "model": model}


def _entry(path: Path, sha: str) -> dict[str, Any]:
    os.chmod(path, 0o444)
    return {"sha256": sha, **_stamp(path)}


def _stamp(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino}


def index_digest(index: Index) -> str:
    """The index's digest without its stamps, which change when a store is copied."""
    files = {path: [entry.get("sha256"), entry.get("size")] for path, entry in index["files"].items()}
    return canonical_digest({"files": files, "model": index["model"]})


@dataclass(frozen=True)
class Checked:
    """What became of a run's outputs."""

    reason: str | None
    """Why they are not believed, None if they are."""
    index: Index | None = None


def check(found: Found, store: Store, *, full: bool = False, restamp: bool = False) -> Checked:
    """Whether a finished run still holds what it left, by its index.

    Locally a file is believed by size, time and inode; one whose stamp differs is hashed again, all are
    with `full`. With `restamp` the index notes new stamps of files that proved the same (a store that was
    copied). Remotely sizes are compared, as that is all that MLflow tells of an artifact.
    """
    if damage := found.tags.get(DAMAGED_TAG):
        return Checked(damage)
    folder = folder_of(found.artifact_uri)
    if folder is None:
        return _check_remote(found, store)
    try:
        index: Index = read_json(folder / INDEX)
        digest = index_digest(index)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Checked(f"its {INDEX} is gone or cannot be read")
    if digest != found.tags.get(INDEX_TAG):
        return Checked(f"its {INDEX} was altered")
    location = None
    if index["model"] is not None:
        uri = store.model_location(index["model"]["id"])
        location = None if uri is None else folder_of(uri)
        if location is None:
            return Checked(f"its LoggedModel {index['model']['id']} is gone")
    changed = False
    for path, entry in index["files"].items():
        place = place_of(path, folder, location)
        reason, stamp = _check_file(place, entry, full=full)
        if reason:
            return Checked(f"{path} {reason}")
        if stamp:
            entry |= stamp
            changed = True
    if extra := _extra(index, folder, location):
        return Checked(f"{extra} is not of this run")
    if changed and restamp:
        write_json(folder / INDEX, index)
    return Checked(None, index)


def place_of(path: str, folder: Path, location: Path | None) -> Path:
    """Where a path of the index is on disk."""
    if location is not None and path.startswith(f"{MODEL}/"):
        return location / path.removeprefix(f"{MODEL}/")
    return folder / path


def _check_file(
    place: Path, entry: dict[str, Any], *, full: bool
) -> tuple[str | None, dict[str, int] | None]:
    """A reason to disbelieve, or else the new stamp where it differs."""
    if not place.is_file():
        return "is gone", None
    stamp = _stamp(place)
    if stamp["size"] != entry["size"]:
        return f"has {stamp['size']:,} bytes instead of {entry['size']:,}", None
    same = all(stamp[name] == entry[name] for name in stamp)
    if (full or not same) and sha256_of(place, again=True) != entry["sha256"]:
        return "was altered", None
    return None, None if same else stamp


def _extra(index: Index, folder: Path, location: Path | None) -> str | None:
    """A file inside an indexed folder that the index does not have."""
    own = [path for path in index["files"] if not path.startswith(f"{MODEL}/")]
    roots = sorted({path.split("/")[0] for path in own if "/" in path})
    found = [path.relative_to(folder).as_posix() for root in roots for path in files_under(folder / root)]
    if location is not None:
        found += [f"{MODEL}/{path.relative_to(location).as_posix()}" for path in files_under(location)]
    strangers = [path for path in found if path not in index["files"] and not path.endswith(ADDED_LATER)]
    return strangers[0] if strangers else None


def listed(uri: str) -> dict[str, int]:
    """Path to size of every file below an artifact URI, asked of its store."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(uri)
    sizes: dict[str, int] = {}
    stack: list[str | None] = [None]
    while stack:
        for entry in repository.list_artifacts(stack.pop()):
            if entry.is_dir:
                stack.append(entry.path)
            else:
                sizes[entry.path] = entry.file_size
    return sizes


def _check_remote(found: Found, store: Store) -> Checked:
    from mlflow.exceptions import MlflowException

    try:
        sizes = listed(found.artifact_uri)
        index: Index = stored_json(found.artifact_uri, INDEX)
        if index_digest(index) != found.tags.get(INDEX_TAG):
            return Checked(f"its {INDEX} was altered")
        if index["model"] is not None:
            if store.model_location(index["model"]["id"]) is None:
                return Checked(f"its LoggedModel {index['model']['id']} is gone")
            model = listed(index["model"]["location"])
            sizes |= {f"{MODEL}/{path}": size for path, size in model.items()}
    except (MlflowException, SlmflowError, OSError, ValueError, KeyError) as error:
        raise_problem(error)  # a store that is away has lost nothing
        return Checked(f"its {INDEX} cannot be read: {first_line(error)}")
    for path, entry in index["files"].items():
        if path not in sizes:
            return Checked(f"{path} is gone")
        if entry.get("size") is not None and sizes[path] != entry["size"]:
            return Checked(f"{path} has {sizes[path]:,} bytes instead of {entry['size']:,}")
    return Checked(None, index)
