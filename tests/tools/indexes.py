"""Package indexes on loopback: an ordinary one, and a stand-in for torch's own, reached as uv's proxy."""

import base64
import datetime
import hashlib
import shutil
import socket
import ssl
import sys
import threading
import zipfile
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

UV = version("uv")


def wheel(folder: Path, name: str, number: str, files: dict[str, str | Path] | None = None) -> Path:
    """A pure wheel that says its version, or one that carries `files`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{number}-py3-none-any.whl"
    # Of another length each: bytecode is taken for that of any source of the same second and length.
    files = files or {f"{name}.py": f"VERSION = {number!r}\n{'#' * int(number[0])}\n"}
    info = f"{name}-{number}.dist-info"
    texts = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = []
    with zipfile.ZipFile(path, "w") as archive:
        for inside, content in {**files, **texts}.items():
            data = content.read_bytes() if isinstance(content, Path) else content.encode()
            entry = zipfile.ZipInfo(inside)
            entry.external_attr = 0o100755 << 16  # a regular file that runs
            archive.writestr(entry, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{inside},sha256={digest},{len(data)}\n")
        archive.writestr(f"{info}/RECORD", "".join(record) + f"{info}/RECORD,,\n")
    return path


def wheel_of_uv(folder: Path) -> Path:
    """The uv of this environment as the wheel that it came from."""
    return wheel(folder, "uv", UV, {f"uv-{UV}.data/scripts/uv": Path(sys.executable).parent / "uv"})


def pages(folder: Path) -> None:
    """Make `folder` of wheels a simple index."""
    for path in folder.glob("*.whl"):
        name = path.name.split("-")[0]
        (folder / "simple" / name).mkdir(parents=True, exist_ok=True)
        shutil.move(path, folder / "simple" / name)
    for place in (folder / "simple").iterdir():
        links = "".join(
            f'<a href="{one.name.replace("+", "%2B")}">{one.name}</a>' for one in place.glob("*.whl")
        )
        (place / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


class Index:
    """A folder of wheels as a simple index."""

    def __init__(self, folder: Path) -> None:
        pages(folder)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/simple"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Authority:
    """Makes certificates for any host; `file` is what its clients trust."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
        self.file = folder / "authority.pem"
        signed = self._made(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None))
        self.file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def _made(self, name, key, extension):
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder().subject_name(name).issuer_name(self._name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1)).add_extension(extension, critical=True)
        )  # fmt: skip
        return made.sign(self._key, hashes.SHA256())

    def context(self, host: str) -> ssl.SSLContext:
        """A server's, as `host`."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        signed = self._made(name, key, x509.SubjectAlternativeName([x509.DNSName(host)]))
        file = self.folder / f"{host}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


class Elsewhere:
    """All hosts beyond this machine, as a proxy: they serve `folder` as any path's index, refuse, or say nothing."""

    def __init__(self, folder: Path, authority: Authority, does: str) -> None:
        self.folder, self.authority, self.does = folder, authority, does
        self.asked: list[str] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self.socket.accept()[0],), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(4096) or b"\r\n\r\n"
            host = head.split()[1].decode().split(":")[0]
            self.asked.append(host)
            if self.does == "refuses":
                connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                return
            if self.does == "says nothing":
                connection.recv(1)  # until its client goes
                return
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            with self.authority.context(host).wrap_socket(connection, server_side=True) as secure:
                self._answer(secure)

    def _answer(self, secure: ssl.SSLSocket) -> None:
        reader = secure.makefile("rb")
        while request := reader.readline().split():
            while reader.readline().strip():
                pass
            *_, name, last = request[1].decode().replace("%2B", "+").split("/")
            path = self.folder / "simple" / name / (last or "index.html")
            found = path.is_file()
            body = path.read_bytes() if found else b""
            kind = "text/html" if path.suffix == ".html" else "application/octet-stream"
            head = f"HTTP/1.1 {'200 OK' if found else '404 Not Found'}\r\nContent-Type: {kind}\r\n"
            secure.sendall(
                f"{head}Content-Length: {len(body)}\r\n\r\n".encode()
                + (b"" if request[0] == b"HEAD" else body)
            )

    def close(self) -> None:
        self.socket.close()
