"""Commands as they stand in README.md and docs/, typed into a shell in a folder of their own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT, make_store, store_uri

CONDA_WORDS = ("CONDA_EXE", "CONDA_PREFIX", "MLFLOW_CONDA_HOME", "MLFLOW_CONDA_CREATE_ENV_CMD")


def typed(command: str, folder: Path, store: Path, first: str = "", **environment: str):
    """One command in an activated .venv, `first` before it on the PATH; returns the finished process."""
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=shell(store, first, **environment),
        capture_output=True,
        text=True,
    )


def shell(store: Path, first: str = "", **environment: str) -> dict[str, str]:
    """What a user's shell has: .venv activated, the store named, no conda but the one that is given."""
    if not (store / "mlflow.db").exists():
        make_store(store)
    kept = {name: value for name, value in os.environ.items() if name not in CONDA_WORDS}
    folders = [first, str(Path(sys.executable).parent), os.environ["PATH"]]
    path = os.pathsep.join(part for part in folders if part)
    return {**kept, "PATH": path, "MLFLOW_TRACKING_URI": store_uri(store), **environment}


def git(*words: str, folder: Path) -> str:
    who = ["-c", "user.name=us", "-c", "user.email=us@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def checkout(folder: Path, below: str = ".") -> str:
    """A new repository with the project's files as they are on disk; its commit.

    `below` is the project's folder in it, as where a team keeps several projects in one repository.
    """
    listed = git("ls-files", "--cached", "--others", "--exclude-standard", "-z", folder=ROOT)
    for name in listed.split("\0"):
        if (ROOT / name).is_file():  # not one that was deleted and is not committed yet
            (folder / below / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / below / name)
    git("init", "--quiet", folder=folder)
    git("add", "--all", folder=folder)
    git("commit", "--quiet", "--message", "the project", folder=folder)
    return git("rev-parse", "HEAD", folder=folder)


def uv_torch() -> dict[str, str]:
    """The CPU build of torch for uv: from the folder that pip looks into, where there is one, else from its index."""
    folder = os.environ.get("PIP_FIND_LINKS")
    return {"UV_FIND_LINKS": folder} if folder else {"UV_TORCH_BACKEND": "cpu"}
