"""The browser of the tests of pages is found, or installed, or what brings it is the last thing said."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tools import chromium

BROWSER = "#!/bin/sh\necho Chromium 1\n"
TESTS = """\
import pytest

@pytest.fixture
def browser():
    raise AssertionError("asked for a browser that is not here")

@pytest.fixture
def page(browser):
    return browser

def test_one(browser): pass
def test_two(page): pass
def test_without_a_page(): pass
"""


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(stat.S_IRWXU)


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine without Chromium: the folder that is its PATH."""
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "playwright"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    for name in ("sh", "env"):
        (tmp_path / "bin" / name).symlink_to(f"/usr/bin/{name}")
    return tmp_path / "bin"


def test_what_is_on_path_is_taken_if_it_starts(bare):
    assert chromium.find() is None
    program(bare, "chromium-browser", "#!/bin/sh\necho install the snap >&2\nexit 1\n")
    assert chromium.find() is None
    program(bare, "google-chrome", BROWSER)
    assert chromium.find() == str(bare / "google-chrome")


def test_playwrights_own_is_taken_too(bare):
    place = Path(chromium.of_playwright())
    place.parent.mkdir(parents=True)
    program(place.parent, place.name, BROWSER)
    assert chromium.find() == str(place)


def test_root_on_debian_gets_it_and_is_told_before(bare, monkeypatch, capfd):
    monkeypatch.setattr(chromium, "system", lambda: "debian")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    install = (
        f"echo asked: \"$@\" >&2; [ $1 = update ] || /usr/bin/install /dev/stdin {bare}/chromium <<'X'\n"
    )
    program(bare, "apt-get", f"#!/bin/sh\n{install}{BROWSER}X\n")
    chromium.main()
    assert chromium.find() == str(bare / "chromium")
    said = capfd.readouterr()
    assert said.out == f"chromium: the tests of pages need one and there is none: {chromium.APT}\n"
    assert "asked: update" in said.err
    assert said.err.splitlines()[-1].endswith(" chromium")
    chromium.main()
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(("system", "user"), [("debian", 1000), ("ubuntu", 1000), ("fedora", 0)])
def test_others_install_it_themselves_and_are_told_how(bare, monkeypatch, capfd, system, user):
    monkeypatch.setattr(chromium, "system", lambda: system)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    chromium.main()
    assert capfd.readouterr().out == ""
    assert chromium.command().endswith("chromium")
    assert ("apt-get" in chromium.command()) == (system == "debian")


@pytest.fixture
def clone(tmp_path):
    """What `make test` needs of this project, with three tests of which two open a page."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    (tmp_path / ".venv").symlink_to(Path(os.sys.prefix))
    (tmp_path / "tests" / "pages").mkdir(parents=True)
    (tmp_path / "tests" / "__init__.py").touch()
    (tmp_path / "tests" / "pages" / "__init__.py").touch()
    shutil.copy(ROOT / "tests" / "pages.py", tmp_path / "tests" / "left_out.py")
    (tmp_path / "tests" / "conftest.py").write_text('pytest_plugins = ["tests.left_out"]\n')
    (tmp_path / "tests" / "pages" / "test_pages.py").write_text(TESTS)
    return tmp_path


def make_test(clone: Path, path: Path, **variables: str) -> tuple[int, str]:
    for name in ("make", "env", "sh"):
        if not (path / name).exists():
            (path / name).symlink_to(shutil.which(name, path="/usr/bin:/bin"))
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("CI", "MAKE", "PYTEST_"))
    }
    environment |= {"PATH": str(path), "PLAYWRIGHT_BROWSERS_PATH": str(clone / "none"), **variables}
    done = subprocess.run(
        ["make", "-s", "-o", "lint", "test", "PART=pages", "WORKERS=1"], cwd=clone, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_without_one_the_last_line_counts_the_pages_and_says_what_brings_it(clone):
    program(clone / "bin", "apt-get", "#!/bin/sh\nexit 100\n")
    status, said = make_test(clone, clone / "bin")
    assert status == 0, said
    assert "1 passed" in said
    last = said.splitlines()[-1]
    assert last.startswith("2 tests of pages were NOT run: no Chromium is here. ")
    assert last.endswith("chromium")


def test_in_ci_pages_that_nobody_opened_are_a_failure(clone):
    program(clone / "bin", "apt-get", "#!/bin/sh\nexit 100\n")
    status, said = make_test(clone, clone / "bin", CI="true")
    assert status != 0
    assert "2 tests of pages were NOT run" in said


def test_with_one_every_test_is_run(clone):
    program(clone / "bin", "chromium", BROWSER)
    status, said = make_test(clone, clone / "bin")
    assert status != 0
    assert said.count("asked for a browser that is not here") >= 2
    assert "NOT run" not in said
