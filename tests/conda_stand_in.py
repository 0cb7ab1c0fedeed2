"""A stand-in for conda: what MLflow asks of it, with the Python at hand, as no machine here reaches conda's channels.

    conda = make_conda(folder)     # folder/bin/conda, folder/bin/activate, folder/etc/profile.d/conda.sh

Real: conda.yaml is read, its specs are solved and linked by rattler (the solver and the package format of pixi) from a
channel in a folder, `pip` installs the rest as conda has it do, and a shell activates the environment. Stand-ins: the
commands themselves, and the channel's two packages, of which `python` is a link to this interpreter.
"""

import asyncio
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path

import yaml

KNOWN = {"name", "channels", "dependencies"}
CHANNELS = {"conda-forge"}
PROFILE = """export CONDA_EXE='{home}/bin/conda'
conda() {{
    if [ "$1" != activate ]; then "$CONDA_EXE" "$@"; return; fi
    case "$2" in */*) prefix="$2";; *) prefix='{home}/envs/'"$2";; esac
    if [ ! -d "$prefix/conda-meta" ]; then
        echo "EnvironmentNameNotFound: Could not find conda environment: $2" >&2; return 1
    fi
    export CONDA_DEFAULT_ENV="$2" CONDA_PREFIX="$prefix" PATH="$prefix/bin:$PATH"
}}
"""


def make_conda(home: Path) -> Path:
    """An installation of the stand-in, with its channel and without an environment."""
    scripts = {
        "bin/conda": f"#!/bin/sh\nexec '{sys.executable}' '{Path(__file__).resolve()}' '{home}' \"$@\"\n",
        "bin/activate": f". '{home}/etc/profile.d/conda.sh' && conda activate \"$@\"\n",
        "etc/profile.d/conda.sh": PROFILE.format(home=home),
    }
    for name, text in scripts.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
        (home / name).chmod(0o755)
    (home / "envs").mkdir()
    asyncio.run(make_channel(home / "channel"))
    return home


async def make_channel(folder: Path) -> None:
    """`python`, which is the interpreter at hand, and `pip`, from the wheel that Python carries."""
    import ensurepip

    from rattler import Platform
    from rattler.index import index_fs

    subdir = str(Platform.current())
    base = Path(sys.base_prefix) / "bin" / f"python{sysconfig.get_python_version()}"
    links = {f"bin/{base.name}": str(base), "bin/python3": base.name, "bin/python": base.name}
    home = (
        f"home = {base.parent}\ninclude-system-site-packages = false\nversion = {platform.python_version()}\n"
    )
    files = {"pyvenv.cfg": home.encode()}
    pack(folder / subdir, "python", platform.python_version(), {}, files, links)

    # Debian keeps it elsewhere.
    place = sysconfig.get_config_var("WHEEL_PKG_DIR") or Path(ensurepip.__file__).parent / "_bundled"
    (wheel,) = Path(place).glob("pip-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        content = {f"site-packages/{name}": opened.read(name) for name in opened.namelist()}
    entry = {"type": "python", "entry_points": ["pip = pip._internal.cli.main:main"]}
    content["info/link.json"] = json.dumps({"noarch": entry, "package_metadata_version": 1}).encode()
    pack(
        folder / "noarch",
        "pip",
        wheel.name.split("-")[1],
        {"noarch": "python", "depends": ["python"]},
        content,
    )
    await index_fs(folder, write_zst=False, write_shards=False)


def pack(folder, name, version, more, files, links=None) -> None:
    """A conda package of the older format: a tar whose `info/` says what it is and which paths it has."""
    index = {"name": name, "version": version, "build": "0", "build_number": 0, "depends": [], **more}
    paths = [{"_path": path, "path_type": "softlink"} for path in links or {}]
    paths += [{"_path": path, "path_type": "hardlink"} for path in files if not path.startswith("info/")]
    about = {"info/index.json": {**index, "subdir": folder.name}}
    about["info/paths.json"] = {"paths": paths, "paths_version": 1}
    folder.mkdir(parents=True)
    with tarfile.open(folder / f"{name}-{version}-0.tar.bz2", "w:bz2", compresslevel=1) as archive:
        for path, value in about.items():
            add(archive, path, json.dumps(value).encode())
        for path, content in files.items():
            add(archive, path, content)
        for path, target in (links or {}).items():
            member = tarfile.TarInfo(path)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)


def add(archive, path, content) -> None:
    member = tarfile.TarInfo(path)
    member.size, member.mode = len(content), 0o644
    archive.addfile(member, BytesIO(content))


def create(home: Path, name: str, file: Path) -> None:
    """`conda env create -n <name> --file <file>`."""
    wanted = yaml.safe_load(file.read_text())
    if unknown := set(wanted) - KNOWN:
        sys.exit(f"EnvironmentSectionNotValid: {', '.join(sorted(unknown))}")
    if unknown := set(wanted.get("channels", [])) - CHANNELS:
        sys.exit(f"UnavailableInvalidChannel: {', '.join(sorted(unknown))}")
    specs = [part for part in wanted["dependencies"] if isinstance(part, str)]
    requirements = [line for part in wanted["dependencies"] if isinstance(part, dict) for line in part["pip"]]
    prefix = home / "envs" / name
    try:
        asyncio.run(solve_and_link(home, specs, prefix))
    except Exception as error:
        sys.exit(f"ResolvePackageNotFound: {error}")
    if requirements:
        install(prefix, requirements, file.resolve().parent)


async def solve_and_link(home: Path, specs: list[str], prefix: Path) -> None:
    from rattler import install as link
    from rattler import solve

    # conda's own form of a version (`python=3.11` is 3.11.*) is rattler's as well.
    records = await solve(sources=[(home / "channel").as_uri()], specs=specs)
    await link(records, prefix, cache_dir=home / "pkgs", show_progress=False)


def install(prefix: Path, requirements: list[str], folder: Path) -> None:
    """As conda does: a file beside conda.yaml with the lines of its `pip:`, so that `-r requirements.txt` is found."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="condaenv.", suffix=".requirements.txt", dir=folder
    ) as listed:
        listed.write("\n".join(requirements))
        listed.flush()
        command = [prefix / "bin" / "python", "-m", "pip", "install", "-U", "-r", listed.name]
        path = f"{prefix / 'bin'}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [*command, "--exists-action=b"],
            cwd=folder,
            env={**os.environ, "PATH": path, "CONDA_PREFIX": str(prefix)},
        )
    if done.returncode:
        sys.exit("CondaEnvException: Pip failed")


def main(home: Path, words: list[str]) -> None:
    match words:
        case ["--help"] | ["--version"]:
            print("a stand-in for conda")
        case ["env", "list", "--json"]:
            found = sorted(path.parent for path in home.glob("envs/*/conda-meta"))
            print(json.dumps({"envs": [str(home), *map(str, found)]}))
        case ["env", "create", "-n", name, "--file", file]:
            create(home, name, Path(file))
        case ["remove", "--yes", "--name", name, "--all"] if re.fullmatch(r"[\w-]+", name):
            shutil.rmtree(home / "envs" / name)
        case _:
            sys.exit(f"the stand-in for conda has no such command: {' '.join(words)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
