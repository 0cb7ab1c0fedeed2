""".venv is what the requirement files pin, whatever came between; with the uv of this machine, and wheels made here."""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.tools.indexes import UV, Authority, Elsewhere, Index, wheel, wheel_of_uv
from tools import install

SITE = Path("lib") / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    wheel_of_uv(folder)
    for number in ("1", "2"):
        wheel(folder, "runtime", number)
    wheel(folder, "tests_only", "1")
    wheel(folder, "of_the_user", "1")
    return folder


class Project:
    """A folder with requirement files of its own."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder, self.venv = folder, folder / ".venv"
        ours = {
            name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "SSL_"))
        }
        self.environment = ours | {"PIP_CONFIG_FILE": os.devnull, "UV_CACHE_DIR": str(folder / "cache")}
        self.environment |= {name: str(value) for name, value in settings.items()}
        (folder / "tools").mkdir()
        shutil.copy(install.__file__, folder / "tools")
        self.pin("torch==9.9.9\nruntime==1\n" if "torch" in settings else "runtime==1\n")
        (folder / "requirements-dev.txt").write_text(f"tests_only==1\nuv=={UV}\n")

    def pin(self, text: str) -> None:
        (self.folder / "requirements.txt").write_text(text)

    def start(self, *files: str) -> subprocess.Popen[str]:
        command = [sys.executable, self.folder / "tools" / "install.py", *(files or ["requirements.txt"])]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip

    def install(self, *files: str) -> tuple[int, str]:
        process = self.start(*files)
        said = process.communicate(timeout=120)[0]
        return process.returncode, said

    def version(self, package: str) -> str:
        """As a program in this environment finds it; "" where it does not."""
        program = f"import {package}; print({package}.VERSION)"
        done = subprocess.run([self.venv / "bin" / "python", "-c", program], capture_output=True, text=True)
        return done.stdout.strip()

    def file(self, name: str) -> Path:
        return self.venv / SITE / name


@pytest.fixture(scope="module")
def installed(wheels, tmp_path_factory):
    """With what `make run` needs installed, and what that said."""
    project = Project(tmp_path_factory.mktemp("installed"), PIP_FIND_LINKS=wheels, PIP_NO_INDEX=1)
    status, said = project.install()
    assert status == 0, said
    return project, said


@pytest.fixture
def project(installed, tmp_path):
    """The same in a folder of its own, where the user has installed a package too."""
    made = installed[0]
    shutil.copytree(made.folder, tmp_path / "project", symlinks=True)
    own = Project.__new__(Project)
    own.folder, own.venv, own.environment = (
        tmp_path / "project",
        tmp_path / "project" / ".venv",
        dict(made.environment),
    )
    own.file("of_the_user.py").write_text("VERSION = '1'\n")
    return own


def test_a_run_needs_no_package_of_the_tests(installed):
    project, said = installed
    assert project.version("runtime") == "1"
    assert project.version("tests_only") == ""
    assert "pip goes on" not in said
    assert said.splitlines()[-1].startswith("install: installed in ")


def test_what_is_installed_is_not_installed_again(project):
    project.environment |= {"PIP_FIND_LINKS": "/nowhere", "PATH": ""}
    assert project.install() == (0, "")


def test_the_tests_packages_come_on_top_and_stay_there(project):
    assert project.install("requirements.txt", "requirements-dev.txt")[0] == 0
    assert project.version("tests_only") == "1"
    assert project.install() == (0, "")
    assert project.install("requirements.txt", "requirements-dev.txt") == (0, "")


def test_a_changed_pin_is_installed_and_what_the_user_added_stays(project):
    project.pin("runtime==2\n")
    status, said = project.install()
    assert status == 0, said
    assert project.version("runtime") == "2"
    assert project.version("of_the_user") == "1"


def test_an_environment_made_by_hand_is_brought_up_in_place(project):
    (project.venv / ".installed").unlink()
    project.pin("runtime==2\n")
    status, said = project.install()
    assert status == 0, said
    assert "making .venv" not in said
    assert project.version("runtime") == "2"
    assert project.version("of_the_user") == "1"


def test_after_an_installation_that_was_broken_off_all_is_installed_again(project):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        working = dict(project.environment)
        del project.environment["PIP_NO_INDEX"]
        project.environment["PIP_INDEX_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        project.pin("runtime==3\n")
        process = project.start()
        silent.accept()
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    project.file("runtime.py").write_text("VERSION = 'half'\n")  # as it would be in the middle of a wheel
    project.file("runtime-1.dist-info/RECORD").unlink()
    project.environment = working
    project.pin("runtime==1\n")
    status, said = project.install()
    assert status == 0, said
    assert project.version("runtime") == "1"
    assert project.version("of_the_user") == "1"
    assert project.install() == (0, "")


def test_the_next_one_waits_for_what_a_killed_one_had_started(project):
    folder = os.open(project.folder, os.O_RDONLY)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        del project.environment["PIP_NO_INDEX"]
        project.environment["PIP_INDEX_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        project.pin("runtime==3\n")
        process = project.start()
        silent.accept()
        process.kill()
        process.wait()
        with pytest.raises(BlockingIOError):
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(folder)


def test_half_an_environment_is_made_anew(project):
    shutil.rmtree(project.file("pip"))
    (project.venv / ".installed").unlink()
    status, said = project.install()
    assert status == 0, said
    assert "making .venv" in said
    assert project.version("runtime") == "1"


def test_after_one_that_failed_all_is_installed_again_and_the_users_stays(project):
    project.pin("runtime==7\n")
    status, said = project.install()
    assert status != 0
    assert "runtime==7" in said
    assert project.version("of_the_user") == "1"
    project.file("runtime.py").write_text("VERSION = 'half'\n")
    project.pin("runtime==1\n")
    assert project.install()[0] == 0
    assert project.version("runtime") == "1"
    assert project.version("of_the_user") == "1"


def test_two_at_once_install_once(project):
    project.pin("runtime==2\n")
    both = [project.start(), project.start()]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(map(bool, said)) == [False, True]
    assert project.version("runtime") == "2"


@pytest.mark.parametrize("uv", ["is not to be had", "does not run"])
def test_without_uv_pip_installs(project, wheels, tmp_path, uv):
    shutil.copytree(wheels, tmp_path / "without", ignore=shutil.ignore_patterns("uv-*"))
    project.environment["PIP_FIND_LINKS"] = str(tmp_path / "without")
    (project.folder / "requirements-dev.txt").write_text("uv==0.0.1\n")
    if uv == "does not run":
        wheel(tmp_path / "without", "uv", "0.0.1", {"uv-0.0.1.data/scripts/uv": "\x7fELF of another machine"})
    project.pin("runtime==2\n")
    status, said = project.install()
    assert status == 0
    assert "uv failed, pip goes on" in said
    assert project.version("runtime") == "2"


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.mark.parametrize(
    ("does", "build"), [("answers", "9.9.9+cpu"), ("refuses", "9.9.9"), ("says nothing", "9.9.9")]
)
def test_torch_is_its_cpu_build_where_its_index_answers(project, authority, wheels, tmp_path, does, build):
    for folder, number in (("ordinary", "9.9.9"), ("cpu", "9.9.9+cpu")):
        wheel(tmp_path / folder, "torch", number)
    wheel(tmp_path / "ordinary", "runtime", "1")
    Index(tmp_path / "cpu").close()
    ordinary, elsewhere = Index(tmp_path / "ordinary"), Elsewhere(tmp_path / "cpu", authority, does)
    del project.environment["PIP_NO_INDEX"], project.environment["PIP_FIND_LINKS"]
    project.environment |= {"PIP_INDEX_URL": ordinary.url, "PIP_CERT": str(authority.file)}
    project.environment |= {"HTTPS_PROXY": elsewhere.url, "NO_PROXY": "127.0.0.1"}
    project.pin("torch==9.9.9\nruntime==1\n")
    began = time.monotonic()
    status, said = project.install()
    assert status == 0, said
    assert project.version("torch") == build
    assert ("with CUDA, some 3 GB" in said) == ("+" not in build)
    assert len(set(elsewhere.asked)) == 1
    assert time.monotonic() - began < 60
    elsewhere.close()
    ordinary.close()


def test_a_build_that_the_users_settings_find_is_taken_and_no_other_index_asked(
    project, authority, wheels, tmp_path
):
    elsewhere = Elsewhere(tmp_path, authority, "refuses")
    wheel(tmp_path / "links", "torch", "9.9.9+mine")
    project.environment |= {"PIP_FIND_LINKS": f"{wheels} {tmp_path / 'links'}", "HTTPS_PROXY": elsewhere.url}
    project.pin("torch==9.9.9\nruntime==1\n")
    status, said = project.install()
    assert status == 0, said
    assert project.version("torch") == "9.9.9+mine"
    assert elsewhere.asked == []
    assert "CUDA" not in said
    elsewhere.close()


def test_uv_is_told_what_pip_is_configured_to_and_the_users_word_for_uv_stays():
    listed = "\n".join(
        [
            "global.constraint='/etc/a.txt'",
            "global.extra-index-url='https://one/simple https://two/simple'",
            "global.find-links='/wheels'",
            "install.find-links='/wheels /more'",
            "download.cert='/not/ours.pem'",
            ":env:.timeout='60'",
            ":env:.index-url='https://mirror/simple'",
            "not a setting",
        ]
    )
    settings = install.pip_settings(listed)
    assert settings["find-links"] == "/wheels /more"
    assert "cert" not in settings
    made = install.uv_variables(
        settings, {"HOME": "/me", "UV_INDEX_URL": "https://mine/simple", "UV_CONSTRAINT": ""}
    )
    assert made == {
        "HOME": "/me",
        "UV_CONSTRAINT": "",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_HTTP_TIMEOUT": "60",
        "UV_INDEX": "https://one/simple https://two/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_INDEX_URL": "https://mine/simple",
    }


def test_the_stamp_names_the_files_that_are_whole(installed):
    project, _ = installed
    assert set(json.loads((project.venv / ".installed").read_text())) == {"requirements.txt"}
    assert (ROOT / "requirements-dev.txt").read_text().count("\nuv==") == 1


def test_another_python_makes_the_environment_anew_and_says_so(wheels, tmp_path):
    project = Project(tmp_path, PIP_FIND_LINKS=wheels, PIP_NO_INDEX=1)
    assert project.install()[0] == 0
    config = project.venv / "pyvenv.cfg"
    config.write_text(config.read_text().replace(f"version = {sys.version_info.major}.", "version = 2."))
    (project.venv / "of_another_python").touch()
    status, said = project.install()
    assert status == 0, said
    assert f"install: .venv was made with Python 2.{sys.version_info.minor}: it is made anew" in said
    assert not (project.venv / "of_another_python").exists()
    assert project.version("runtime") == "1"


def test_a_python_that_is_not_supported_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(install.sys, "version_info", (3, 10, 13, "final", 0))
    with pytest.raises(SystemExit) as ended:
        install.install(["requirements.txt"])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "is Python 3.10: take one of 3.11, 3.12, 3.13, by PYTHON=" in line
