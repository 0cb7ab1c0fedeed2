"""Which of our own modules a step's code consists of, and their digests: static, nothing is imported."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import sys
from functools import cache
from pathlib import Path

from slmflow.files import cache_folder, read_json, write_json

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("slmflow", "steps")
MEMO_ENTRIES = 2000
OUTSIDE = ("slmflow.workflow", "slmflow.backends", "slmflow.commands", "slmflow.compose", "slmflow.config")
"""Modules that no result depends on: they launch and record, or make the resolved configuration, which is
in the key by its values."""


def code_of(entry: str, ships: tuple[str, ...] = ()) -> dict[str, str]:
    """Path to digest of every module in the static import closure of `entry`, and of the shipped files.

    Imports inside functions count, those for type checkers do not. A string that is the dotted name of one
    of our modules counts as its import: that is how exporters and sources are named. A module's digest is
    of its syntax tree, so comments, docstrings and layout do not change it; a shipped file's of its bytes.
    """
    return _code_of(ROOT, entry, ships)


@cache
def _code_of(root: Path, entry: str, ships: tuple[str, ...]) -> dict[str, str]:
    seen: dict[str, str] = {}
    stack = [entry]
    while stack:
        module = stack.pop()
        path = path_of(root, module)
        if path is None or any(module == name or module.startswith(f"{name}.") for name in OUTSIDE):
            continue
        name = path.relative_to(root).as_posix()
        if name in seen:
            continue
        seen[name], imported = read_module(module, path)
        stack += imported
    for pattern in ships:
        for path in root.glob(pattern):
            seen[path.relative_to(root).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    _memo().save()
    return dict(sorted(seen.items()))


class _Memo:
    """What was read of modules before, by their bytes: parsing them all takes a quarter of a second."""

    def __init__(self) -> None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"  # syntax trees differ between them
        self._path = cache_folder() / f"modules-{version}.json"
        self._changed = False
        self.entries: dict[str, tuple[str, list[str]]] = {}
        with contextlib.suppress(OSError, ValueError):
            self.entries = read_json(self._path)

    def add(self, key: str, digest: str, imported: list[str]) -> None:
        self.entries[key] = (digest, imported)
        self._changed = True

    def save(self) -> None:
        if self._changed:
            newest = dict(list(self.entries.items())[-MEMO_ENTRIES:])
            with contextlib.suppress(OSError):
                write_json(self._path, newest)
            self._changed = False


@cache
def _memo() -> _Memo:
    return _Memo()


def path_of(root: Path, module: str) -> Path | None:
    """The file of one of our modules, None for anything else."""
    if module.split(".")[0] not in PACKAGES:
        return None
    base = root.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def read_module(module: str, path: Path) -> tuple[str, list[str]]:
    """The digest of a module's syntax tree, and the dotted names that it may import from us."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    source = path.read_bytes()
    key = hashlib.sha256(package.encode() + b"\0" + source).hexdigest()
    if key not in _memo().entries:
        tree = ast.parse(source)
        names = _Names(package)
        names.visit(tree)
        ours = {name for name in names.found if name.split(".")[0] in PACKAGES}
        parents = {".".join(name.split(".")[:end]) for name in ours for end in range(1, name.count(".") + 1)}
        _strip_docstrings(tree)
        digest = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
        _memo().add(key, digest, sorted({*ours, *parents}))
    digest, imported = _memo().entries[key]
    return digest, imported


class _Names(ast.NodeVisitor):
    def __init__(self, package: str) -> None:
        self.package = package
        self.found: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        test = node.test
        if (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
            isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
        ):
            for other in node.orelse:
                self.visit(other)
            return
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parts = self.package.split(".")
            base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
        # What is imported may be a module of the package or a name in it: a name leads to no file.
        self.found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and node.value.startswith(PACKAGES) and "." in node.value:
            self.found.add(node.value)


def _strip_docstrings(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [
                child
                for child in body
                if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant))
            ]
            node.body = kept  # type: ignore[attr-defined]
