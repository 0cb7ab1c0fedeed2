"""The state of a checkout is recorded well enough to build it again, and nothing secret with it."""

import subprocess

import pytest

from slmflow.workflow.checkout import (
    COMMIT_VARIABLE,
    LIMIT_BYTES,
    checkout,
    git,
    installed,
    own_distributions,
)


@pytest.fixture
def clone(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "code.py").write_text("a = 1\n")
    (folder / ".gitignore").write_text("ignored\n")
    who = ("-c", "user.name=t", "-c", "user.email=t@t")
    for words in (("init", "-q"), ("add", "-A"), (*who, "commit", "-qm", "first")):
        assert git(*words, folder=folder).returncode == 0
    checkout.cache_clear()
    return folder


def state(folder):
    checkout.cache_clear()
    return checkout(folder)


def test_a_clean_checkout_is_its_commit(clone):
    found = state(clone)
    head = subprocess.run(["git", "-C", clone, "rev-parse", "HEAD"], capture_output=True, text=True)
    assert (found.commit, found.dirty, found.patch) == (head.stdout.strip(), False, b"")


def test_a_folder_that_is_no_checkout_has_no_commit(tmp_path, clone):
    assert state(tmp_path).commit is None
    (clone / "inside").mkdir()
    assert state(clone / "inside").commit is None, "a copy below another repository"


def test_a_folder_that_git_tracks_below_a_repository_is_its_commit_and_only_its_own_changes(clone, tmp_path):
    project = clone / "models" / "slm flow"
    project.mkdir(parents=True)
    (project / "code.py").write_text("a = 1\n")
    for words in (("add", "-A"), ("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "second")):
        assert git(*words, folder=clone).returncode == 0
    head = git("rev-parse", "HEAD", folder=clone).stdout.decode().strip()
    (clone / "code.py").write_text("another project's\n")
    found = state(project)
    assert (found.commit, found.dirty, found.below) == (head, False, "models/slm flow/")
    (project / "code.py").write_text("a = 2\n")
    (project / "new.py").write_text("b = 1\n")
    found = state(project)
    assert found.dirty
    again = tmp_path / "again"
    assert git("clone", "-q", str(clone), str(again), folder=tmp_path).returncode == 0
    (tmp_path / "patch").write_bytes(found.patch)
    applied = git("apply", f"--directory={found.below}", str(tmp_path / "patch"), folder=again)
    assert applied.returncode == 0, applied.stderr
    assert (again / found.below / "code.py").read_text() == "a = 2\n"
    assert (again / found.below / "new.py").read_text() == "b = 1\n"
    assert (again / "code.py").read_text() == "a = 1\n"


def test_a_patch_builds_changed_new_and_deleted_files_again(clone, tmp_path):
    (clone / "more.py").write_text("x\n")
    assert git("add", "more.py", folder=clone).returncode == 0
    (clone / "code.py").write_text("a = 2\n")
    (clone / "sub").mkdir()
    (clone / "sub" / "new ü.txt").write_text("untracked\n")
    (clone / "ignored").write_text("not recorded")
    found = state(clone)
    assert found.dirty
    assert not found.withheld
    again = tmp_path / "again"
    assert git("clone", "-q", str(clone), str(again), folder=tmp_path).returncode == 0
    (tmp_path / "patch").write_bytes(found.patch)
    applied = git("apply", str(tmp_path / "patch"), folder=again)
    assert applied.returncode == 0, applied.stderr
    for name in ("more.py", "code.py", "sub/new ü.txt"):
        assert (again / name).read_text() == (clone / name).read_text()
    assert not (again / "ignored").exists()


@pytest.mark.parametrize(
    "secret",
    [
        "token = 'hf_" + "a" * 34 + "'",
        "AKIA" + "A" * 16,
        "-----BEGIN RSA PRIVATE KEY-----",
        "password: correct-horse-battery",
        "DATABRICKS = 'dapi" + "0" * 32 + "'",
        "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMIabc",
        '"token": "abcdefghijklmnop1234"',
        "postgresql://user:s3cret@db/x",
        "Authorization: Bearer eyJhbGciOiJIUzI1",
    ],
)
def test_what_looks_like_a_credential_is_withheld_and_the_line_named(clone, secret):
    (clone / "settings.txt").write_text(f"x\n{secret}\n")
    found = state(clone)
    assert "looks like a credential" in found.withheld
    assert found.patch == b""


def test_a_file_whose_name_says_credentials_is_withheld(clone):
    (clone / ".env").write_text("X=1\n")
    assert "may hold credentials" in state(clone).withheld


def test_a_checkout_in_a_folder_with_a_space_and_the_users_diff_settings_are_no_matter(clone, tmp_path):
    moved = clone.rename(tmp_path / "my project")
    assert git("config", "diff.noprefix", "true", folder=moved).returncode == 0
    (moved / "code.py").write_bytes(b"caf\xe9 = 1\n")
    found = state(moved)
    assert found.commit
    assert b"diff --git a/code.py b/code.py" in found.patch


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\0binary", "is not text"), (b"x" * (LIMIT_BYTES + 1), "more than 5,000,000 bytes")],
    ids=["binary", "large"],
)
def test_binary_and_large_untracked_files_are_withheld_and_named(clone, content, said):
    (clone / "file.bin").write_bytes(content)
    found = state(clone)
    assert "file.bin" in found.withheld
    assert said in found.withheld


def test_the_environment_is_every_distribution_with_its_version():
    lines = installed().splitlines()
    assert any(line.startswith("mlflow==3") for line in lines)
    assert any(line.startswith("onnxruntime-genai==") for line in lines)
    assert not [line for line in own_distributions(installed()) if line.startswith(("pip==", "setuptools=="))]


def test_what_is_no_plain_file_cannot_be_recorded_and_is_named(clone, tmp_path):
    (clone / "link").symlink_to(tmp_path)
    found = state(clone)
    assert found.dirty
    assert found.withheld == "the untracked link is no plain file"


def test_an_archive_of_a_commit_knows_it(clone, tmp_path):
    stamp = clone / "slmflow" / "workflow" / "commit.txt"
    stamp.parent.mkdir(parents=True)
    stamp.write_text("$Format:%H$\n")
    (clone / ".gitattributes").write_text("slmflow/workflow/commit.txt export-subst\n")
    who = ("-c", "user.name=t", "-c", "user.email=t@t")
    for words in (("add", "-A"), (*who, "commit", "-qm", "stamp")):
        assert git(*words, folder=clone).returncode == 0
    head = git("rev-parse", "HEAD", folder=clone).stdout.decode().strip()
    packed = tmp_path / "project.tar"
    assert git("archive", "-o", str(packed), "HEAD", folder=clone).returncode == 0
    copy = tmp_path / "copy"
    copy.mkdir()
    subprocess.run(["tar", "-xf", packed, "-C", copy], check=True)
    assert state(copy).commit == head
    (copy / "slmflow" / "workflow" / "commit.txt").write_text("$Format:%H$\n")
    assert state(copy).commit is None


def test_a_job_is_told_the_commit_of_its_folder(tmp_path, clone, monkeypatch):
    monkeypatch.setenv(COMMIT_VARIABLE, "0" * 40)
    assert state(tmp_path).commit == "0" * 40
    assert state(clone).commit != "0" * 40, "a checkout knows better"
    monkeypatch.setenv(COMMIT_VARIABLE, "${bundle.git.commit}")
    assert state(tmp_path).commit is None
