"""`mlflow models …` exactly as model cards write it: in the environment that MLflow itself builds from a model's requirements.

Without `--env-manager` that is `virtualenv` in MLflow 3.17.2, which needs pyenv; `generate-dockerfile` chooses by itself.
"""

import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import mlflow
import psutil
import pytest
from mlflow import MlflowClient

from slmflow.config import PackageConfig
from slmflow.packaging.onnx_model import log_onnx_model
from tests.conftest import ROOT, make_store, store_uri
from tests.documented import commands
from tests.free_port import free_port
from tests.typed import shell, typed

pytestmark = pytest.mark.slow
CHAT = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8}
MODEL = "models:/tiny-phi3-onnx@champion"
needs_pyenv = pytest.mark.skipif(
    shutil.which("pyenv") is None, reason="no pyenv on PATH: MLflow's virtualenv cannot make an environment"
)


@pytest.fixture(scope="module")
def store(tiny_onnx, tmp_path_factory):
    """A store whose registry has the tiny ONNX model as champion."""
    folder = tmp_path_factory.mktemp("store")
    make_store(folder)
    mlflow.set_tracking_uri(store_uri(folder))
    with mlflow.start_run():
        made = log_onnx_model(tiny_onnx, "tiny", PackageConfig(), folder / "scratch", {"source": "test"})
    version = mlflow.register_model(f"models:/{made}", "tiny-phi3-onnx")
    MlflowClient().set_registered_model_alias("tiny-phi3-onnx", "champion", version.version)
    mlflow.set_tracking_uri(None)
    return folder


@pytest.fixture(scope="module")
def environments(tmp_path_factory):
    """Where MLflow makes environments: one of this model's requirements, for all of this module."""
    folder = tmp_path_factory.mktemp("envs")
    yield folder
    shutil.rmtree(folder)


@contextmanager
def running(command: str, folder: Path, environment: dict[str, str]):
    """A server as a user starts it, until it is stopped by Ctrl-C; it and its output are ended with the block."""
    log = folder / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=folder,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    except BaseException:
        print(log.read_text()[-4000:])
        raise
    finally:
        everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
        _, left = psutil.wait_procs(everyone, 30)
        for one in left:
            one.kill()
        assert not left, "Ctrl-C ends the command and its server"


def ask(port: int, body: dict | None = None):
    """GET /ping, or POST a body to /invocations."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/ping")
    if body:
        address = f"http://127.0.0.1:{port}/invocations"
        request = urllib.request.Request(
            address, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read().strip() or "null")


def wait_until_it_answers(process, port):
    while True:
        try:
            return ask(port)
        except OSError:
            assert process.poll() is None, "the server ended"
            time.sleep(0.5)


def holds(environment: Path, names: set[str]) -> set[str]:
    """Which of these distributions an environment has."""
    found = environment.glob("lib/python3*/site-packages/*.dist-info")
    return names & {path.stem.rpartition("-")[0].lower().replace("_", "-") for path in found}


@needs_pyenv
def test_serve_answers_from_an_environment_of_the_models_requirements(store, environments, tmp_path):
    port = free_port()
    command = f"mlflow models serve -m {MODEL} -p {port}"
    with running(command, tmp_path, shell(store, MLFLOW_ENV_ROOT=str(environments))) as process:
        wait_until_it_answers(process, port)
        assert ask(port, CHAT)[0]["choices"][0]["message"]["content"]
        rows = [{"prompt": "Once", "max_tokens": 4}, {"prompt": "Two", "max_tokens": 4}]
        assert len(ask(port, {"dataframe_records": rows})["predictions"]) == 2
        (made,) = environments.glob("mlflow-*")
        server = next(
            child for child in psutil.Process(process.pid).children(True) if "uvicorn" in child.name()
        )
        assert server.environ()["VIRTUAL_ENV"] == str(made)
    assert holds(made, {"onnxruntime-genai", "mlflow", "torch", "transformers"}) == {
        "onnxruntime-genai",
        "mlflow",
    }


def linked_python(folder: Path) -> dict[str, str]:
    """pyenv with a recipe of its own for this Python: a link to it, in place of minutes of compiling sources from afar."""
    folder.mkdir()
    python = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    recipe = f'mkdir -p "$PREFIX_PATH/bin"\nln -s {python} "$PREFIX_PATH/bin/python"\n'
    (folder / platform.python_version()).write_text(recipe)
    return {"PYTHON_BUILD_DEFINITIONS": str(folder)}


@pytest.mark.parametrize("manager", [pytest.param("", marks=needs_pyenv), " --env-manager uv"])
def test_predict_answers_a_file_in_an_environment_of_its_own(store, tmp_path, manager):
    """MLflow makes it anew each time, the Python included, and removes it."""
    (tmp_path / "request.json").write_text(json.dumps(CHAT))
    (tmp_path / "tmp").mkdir()
    command = f"mlflow models predict -m {MODEL} -i request.json -o answer.json{manager}"
    done = typed(
        command, tmp_path, store, TMPDIR=str(tmp_path / "tmp"), **linked_python(tmp_path / "recipes")
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert json.loads((tmp_path / "answer.json").read_text())[0]["choices"][0]["message"]["content"]
    assert f"source {tmp_path}/tmp/" in done.stderr
    assert not list((tmp_path / "tmp").glob("*/envs"))


def test_our_server_answers_the_readmes_curl(store, tmp_path):
    """On a free port and with the tiny model; for the rest as they stand there."""
    (curl,) = [
        command.text
        for command in commands()
        if command.text.startswith("curl ") and command.page == "README.md"
    ]
    port = free_port()
    command = f"mlflow run {ROOT} -e serve --env-manager local -P model_uri={MODEL} -P port={port}"
    with running(command, tmp_path, shell(store)) as process:
        while typed(f"curl -sf http://127.0.0.1:{port}/health", tmp_path, store).returncode:
            assert process.poll() is None, "the server ended"
            time.sleep(0.5)
        done = typed(f"{curl.replace(':8000', f':{port}')} --silent --fail", tmp_path, store)
        assert done.returncode == 0
        pieces = [line.removeprefix("data: ") for line in done.stdout.splitlines() if line]
        assert pieces[-1] == "[DONE]"
        assert json.loads(pieces[0])["choices"]


SYSTEM = ("apt-get ", "apt ", "git clone", "/etc/apt/", "/var/lib/apt/")
"""What a step of the image does outside Python: not done here, as there is neither its base nor its network."""
ASK = """
import json, subprocess, sys, time, urllib.request
server = subprocess.Popen(json.loads(sys.argv[1]), stdout=sys.stderr)
def call(path, body=None):
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request("http://127.0.0.1:8000" + path, body and body.encode(), headers)
    return urllib.request.urlopen(request, timeout=60).read().decode()
try:
    while True:
        try:
            call("/ping")
            break
        except OSError:
            assert server.poll() is None, "the server ended"
            time.sleep(0.5)
    print(json.dumps({"answer": json.loads(call("/invocations", sys.argv[2]))}))
finally:
    server.terminate()
    server.wait()
"""


class Image:
    """What `docker build` makes of a folder, as far as it is Python's: the steps of its Dockerfile, carried out.

    A new virtual environment is the base image's Python, what is written below /opt stays in a layer of its own, and
    the server has loopback for itself, as in a container. The system's packages (nginx) are left out.
    """

    def __init__(self, folder: Path, context: Path) -> None:
        self.folder, self.context = folder, context
        lines = (context / "Dockerfile").read_text().splitlines()
        text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
        lines = [line.split(" ", 1) for line in text.replace("\\\n", " ").splitlines() if line]
        self.steps = [(word, " ".join(rest.split())) for word, rest in lines]
        self.left_out = [
            rest for word, rest in self.steps if word == "RUN" and any(s in rest for s in SYSTEM)
        ]
        for part in ("upper", "work"):
            (folder / part).mkdir(parents=True)

    def build(self, **environment: str) -> None:
        (base,) = [rest for word, rest in self.steps if word == "FROM"]
        self.base = base
        subprocess.run([sys.executable, "-m", "venv", self.folder / "python"], check=True)
        script = []
        for word, rest in self.steps:
            if word == "RUN" and rest not in self.left_out:
                script.append(rest)
            if word == "WORKDIR":
                script.append(f"mkdir -p {rest}; cd {rest}")
            if word == "COPY":
                source, place = rest.split()
                script.append(f"mkdir -p {place}; cp -r {self.context}/{source}/. {place}")
        self.inside("\n".join(script), **environment)

    def ask(self, body: dict, **environment: str):
        """The entrypoint's server, asked one request as MLflow's own route takes it."""
        (entrypoint,) = [rest for word, rest in self.steps if word == "ENTRYPOINT"]
        command = shlex.join(["python", "-c", ASK, entrypoint, json.dumps(body)])
        said = self.inside(f"ip link set lo up\n{command}", "--net", DISABLE_NGINX="true", **environment)
        return json.loads(said.splitlines()[-1])["answer"]

    def inside(self, script: str, *options: str, **environment: str) -> str:
        layers = f"lowerdir=/opt,upperdir={self.folder}/upper,workdir={self.folder}/work"
        script = f"set -e\nmount -t overlay overlay -o {layers} /opt\n{script}"
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        path = f"{self.folder}/python/bin{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "MLFLOW_DISABLE_ENV_CREATION": "True", **environment, "PATH": path}
        command = ["unshare", *user, "--mount", *options, "bash", "-c", script]
        done = subprocess.run(command, env=env, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout


def namespaces() -> bool:
    """Whether this user may have a place for mounts and a loopback of its own."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    return subprocess.run(["unshare", *user, "--mount", "--net", "true"], capture_output=True).returncode == 0


needs_namespaces = pytest.mark.skipif(
    sys.platform != "linux" or not namespaces(),
    reason="no namespaces of one's own: an image cannot be carried out",
)


@needs_namespaces
def test_the_generated_folder_builds_an_image_that_serves_the_model(store, tmp_path):
    done = typed(f"mlflow models generate-dockerfile -m {MODEL} -d image", tmp_path, store)
    assert done.returncode == 0, done.stderr[-3000:]
    image = Image(tmp_path / "built", tmp_path / "image")
    image.build()
    assert image.base == f"python:{platform.python_version()}-slim", "the image has the Python of the model"
    assert len(image.left_out) == 3, image.left_out
    assert image.ask(CHAT)[0]["choices"][0]["message"]["content"]
    assert not holds(tmp_path / "built/python", {"torch", "transformers"})


@needs_pyenv
@needs_namespaces
def test_build_docker_hands_docker_a_folder_whose_image_makes_the_models_environment(
    store, environments, tmp_path
):
    """`docker` is a stand-in that keeps the folder; its virtualenv is the one of `mlflow models serve`."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/docker.log\ncp -r . {tmp_path}/image\n'
    )
    (tmp_path / "bin/docker").chmod(0o755)
    done = typed(
        f"mlflow models build-docker -m {MODEL} -n slm", tmp_path, store, first=str(tmp_path / "bin")
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "docker.log").read_text().splitlines()[-1].startswith("build -t slm -f Dockerfile")
    image = Image(tmp_path / "built", tmp_path / "image")
    image.build(MLFLOW_ENV_ROOT=str(environments))
    assert image.ask(CHAT, MLFLOW_ENV_ROOT=str(environments))[0]["choices"][0]["message"]["content"]
    assert (tmp_path / "built/upper/activate").readlink().parent.parent.parent == environments
