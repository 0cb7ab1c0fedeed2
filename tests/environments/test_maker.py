"""An environment holds what its list asks for: linked from here, the rest installed; made once."""

import os
import subprocess
import sys
import time
from importlib.metadata import distribution, version
from importlib.util import cache_from_source
from pathlib import Path

import jinja2
import pytest

from slmflow.environments import maker
from slmflow.environments.maker import WHOLE, Purpose, check, environment, remove_unused, unused_for
from slmflow.environments.requirements import locked, plain_lines, size_of_its_like, with_all_they_require
from slmflow.errors import SlmflowError
from slmflow.files import read_json, write_json
from tests.environments import without_network

PURPOSE = Purpose("this test", "do without")
OLD_SIX = "six==1.16.0"
"""Not the version that is installed here."""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(maker.FOLDER, str(tmp_path / "environments"))
    return tmp_path / "environments"


def made(text, **how):
    return environment(text, PURPOSE, **{"is_locked": False, **how})


def held_by(environment):
    program = "from importlib.metadata import distributions as d; print(*sorted(f'{i.name}=={i.version}' for i in d()))"
    done = subprocess.run(
        [environment.python, "-I", "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.lower().split()


def test_all_that_a_list_requires_is_found_here_and_no_more():
    split = with_all_they_require(["hydra-core", "numpy"])
    assert set(split.here) == {
        "hydra-core",
        "omegaconf",
        "antlr4-python3-runtime",
        "pyyaml",
        "packaging",
        "numpy",
    }
    assert split.missing == []


@pytest.mark.parametrize("line", ["numpy==0.1", "nobody-has-this", "-r other.txt", "numpy==="])
def test_what_is_not_installed_here_as_asked_is_missing(line):
    for part in (with_all_they_require, locked):
        split = part(["jinja2", line])
        assert "jinja2" in split.here
        assert split.missing == [line]


def test_a_lock_names_versions_and_markers_that_do_not_hold_are_left_out():
    split = locked(["jinja2", "markupsafe", OLD_SIX, "pywin32==1 ; sys_platform == 'win32'"])
    assert set(split.here) == {"jinja2", "markupsafe"}
    assert split.missing == [OLD_SIX]


def test_what_a_linked_build_requires_and_the_lock_does_not_name_comes_with_it():
    """The lock has torch, and no CUDA, which the build that is here may need."""
    assert set(locked(["jinja2"]).here) == {"jinja2", "markupsafe"}
    split = locked(["jinja2", "markupsafe==0.1"])
    assert (set(split.here), split.missing) == ({"jinja2"}, ["markupsafe==0.1"])


def test_a_build_with_a_local_label_is_the_version_that_it_is_a_build_of():
    public = version("torch").partition("+")[0]
    assert "torch" in locked([f"torch=={public}"]).here


def test_an_extra_brings_what_it_requires():
    assert "requests" not in with_all_they_require(["packaging"]).here
    plain, extra = (with_all_they_require([line]) for line in ("uvicorn", "uvicorn[standard]"))
    assert set(plain.here) | set(plain.missing) < set(extra.here) | set(extra.missing)


def test_an_environment_is_made_once_and_again_where_a_crash_left_half_of_it():
    first = made("jinja2 # why\n\n")
    assert held_by(first) == sorted(f"{name}=={version(name)}" for name in ("jinja2", "markupsafe"))
    inode = first.folder.stat().st_ino
    assert made("jinja2") == first
    assert first.folder.stat().st_ino == inode
    (first.folder / WHOLE).unlink()
    (module,) = first.folder.glob("lib/python*/site-packages/jinja2/__init__.py")
    module.unlink()
    assert made("jinja2") == first
    assert module.exists()
    assert distribution("jinja2").locate_file("jinja2/__init__.py").exists()


def test_what_python_compiled_here_is_linked_too_though_the_installer_lists_none_of_it():
    compiled = Path(cache_from_source(jinja2.__file__))
    assert compiled.exists()
    found = made("jinja2").folder.glob(f"lib/python*/site-packages/jinja2/__pycache__/{compiled.name}")
    assert next(found).samefile(compiled)


@pytest.mark.parametrize("is_locked", [True, False])
def test_only_what_is_not_here_is_installed_and_it_is_said_before(is_locked, capfd):
    text = f"jinja2\nmarkupsafe\n{OLD_SIX}\n"
    both = made(text, is_locked=is_locked)
    assert both.installed == [OLD_SIX]
    assert set(held_by(both)) == {
        f"jinja2=={version('jinja2')}",
        f"markupsafe=={version('markupsafe')}",
        OLD_SIX,
    }
    said = capfd.readouterr().out
    assert f"this test has an environment of its own, made once: {OLD_SIX} is installed" in said
    assert "the rest is linked from here" in said
    (module,) = both.folder.glob("lib/python*/site-packages/jinja2/__init__.py")
    assert module.samefile(jinja2.__file__)
    made(text, is_locked=is_locked)
    assert capfd.readouterr().out == "", "nothing is made, nothing is said"


def test_an_installation_that_replaces_a_linked_distribution_leaves_the_one_here_whole():
    before = Path(jinja2.__file__).read_bytes()
    replaced = made("jinja2\nmarkupsafe==2.1.5\n")
    assert "markupsafe==2.1.5" in held_by(replaced)
    assert Path(jinja2.__file__).read_bytes() == before
    assert distribution("markupsafe").version != "2.1.5"


def test_without_links_all_of_it_is_installed():
    installed = made("six==1.17.0", linked=False)
    assert installed.installed == ["six==1.17.0"]
    assert installed.folder != made("six==1.17.0").folder


def test_without_a_network_it_is_one_line_that_says_what_to_do_and_leaves_nothing(folder, monkeypatch):
    without_network(monkeypatch)
    with pytest.raises(
        SlmflowError, match=r"the environment of this test cannot be made: .*nobody.*; do without"
    ) as error:
        made("jinja2\nnobody-has-this==1.0")
    assert "\n" not in str(error.value)
    assert list(folder.iterdir()) == []


def test_symbolic_links_to_what_is_gone_are_made_anew(monkeypatch):
    def refuse(*_):
        raise OSError("another file system")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("slmflow.environments.links.os.link", refuse)
        first = made("jinja2")
    (module,) = first.folder.glob("lib/python*/site-packages/jinja2/__init__.py")
    assert module.is_symlink()
    assert made("jinja2") == first
    record = read_json(first.folder / WHOLE)
    assert record["needs"] == sys.prefix
    write_json(first.folder / WHOLE, record | {"needs": "/gone"})
    assert made("jinja2") == first
    assert not module.is_symlink()


def test_a_record_that_was_cut_short_is_no_whole_environment():
    first = made("jinja2")
    (first.folder / WHOLE).write_text("")
    assert made("jinja2") == first
    assert read_json(first.folder / WHOLE)["for"] == "this test"


def test_a_folder_that_cannot_be_written_is_one_line_also_when_it_is_only_asked(monkeypatch):
    monkeypatch.setenv(maker.FOLDER, "/proc/nowhere")
    for ask in (lambda: made("jinja2"), lambda: check("jinja2", PURPOSE)):
        with pytest.raises(
            SlmflowError, match=r"the environment of this test cannot be made: .*/proc/nowhere.*; do"
        ) as error:
            ask()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", [locked, with_all_they_require])
def test_an_address_is_not_taken_for_the_name_in_it(part):
    line = "jinja2 @ https://example.org/jinja2-9.whl#sha256=00"
    assert list(plain_lines(f"{line}  # why")) == [line]
    assert part([line]).here == {}
    assert part([line]).missing == [line]


def test_one_that_nobody_used_for_long_is_found_and_removed():
    first = made("jinja2")
    assert unused_for(30) == []
    old = time.time() - 31 * 86_400
    os.utime(first.folder / WHOLE, (old, old))
    assert unused_for(30) == [(first.folder, "this test")]
    made("jinja2")
    assert unused_for(30) == [], "used again"
    remove_unused(first.folder, 30)
    assert first.folder.exists(), "somebody took it since it was listed"
    os.utime(first.folder / WHOLE, (old, old))
    remove_unused(first.folder, 30)
    assert not first.folder.exists()


def test_what_a_distribution_takes_on_disk_is_told_from_the_one_here():
    assert 10_000 < size_of_its_like("six==0.1") < 200_000
    assert size_of_its_like("nobody-has-this==1") == size_of_its_like("-r other.txt") == 0
