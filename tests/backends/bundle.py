"""databricks.yml as `databricks bundle deploy` would bring it to a workspace."""

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from slmflow.workflow.closure import ROOT


def bundle() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "databricks.yml").read_text())


def deploy(workspace, user: str, **variables: str) -> dict[str, Any]:
    """Bring the tracked files that `sync` names to the workspace; returns the bundle with its references resolved."""
    found = bundle()
    folder = f"/Workspace/Users/{user}/.bundle/slmflow/dev/files"
    values = {name: variables.get(name, one["default"]) for name, one in found["variables"].items()}
    known = {f"var.{name}": value for name, value in values.items()} | {
        "workspace.file_path": folder, "workspace.current_user.userName": user, "bundle.target": "dev",
        "bundle.git.commit": "0123456789abcdef0123456789abcdef01234567",
    }  # fmt: skip
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    excluded = tuple(pattern.removesuffix("**") for pattern in found["sync"]["exclude"])
    for name in filter(None, names.decode().split("\0")):
        if name.startswith(excluded) or not (ROOT / name).is_file():
            continue
        place: Path = workspace.files.place(f"{folder}/{name}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((ROOT / name).read_bytes())
    return resolved(resolved(found, known), known)


def resolved(node: Any, known: dict[str, str]) -> Any:
    """Every `${reference}` replaced by its value; `{{...}}` is left to the service."""
    if isinstance(node, dict):
        return {name: resolved(value, known) for name, value in node.items()}
    if isinstance(node, list):
        return [resolved(value, known) for value in node]
    if isinstance(node, str):
        return re.sub(r"\$\{([\w.]+)\}", lambda found: known.get(found[1], found[0]), node)
    return node
