"""Files of a workspace: imported ones, those of the Files API (volumes, models, run artifacts), and DBFS."""

import base64
import shutil
import uuid
from pathlib import Path
from urllib.parse import quote, unquote

from tests.databricks.rest import Answer, RefusedError, Request, absent, invalid

IMPORT_LIMIT = 10 * 1024 * 1024


class Files:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dbfs_is_disabled = False
        self.url = ""
        self.parts: dict[str, Path] = {}
        self.uploads = 0
        """Files that went by parts."""

    # -- workspace files -------------------------------------------------------------------------------------
    def place(self, path: str) -> Path:
        if not path.startswith("/"):
            raise invalid(f"Path ({path}) doesn't start with '/'")
        return self.folder / "Workspace" / path.removeprefix("/Workspace").lstrip("/")

    def mkdirs(self, request: Request) -> dict:
        self.place(request.body["path"]).mkdir(parents=True, exist_ok=True)
        return {}

    def import_(self, request: Request) -> dict:
        body = request.body
        place = self.place(body["path"])
        content = base64.b64decode(body["content"])
        if len(body["content"]) > IMPORT_LIMIT:
            raise RefusedError(
                400, "MAX_NOTEBOOK_SIZE_EXCEEDED", "File size imported is larger than 10485760 bytes"
            )
        if not place.parent.is_dir():
            raise absent(f"The parent folder ({body['path']}) does not exist.")
        if place.exists() and not body.get("overwrite"):
            raise RefusedError(400, "RESOURCE_ALREADY_EXISTS", f"Path ({body['path']}) already exists.")
        place.write_bytes(content)
        return {}

    def get_status(self, request: Request) -> dict:
        path = request.body["path"]
        place = self.place(path)
        if not place.exists():
            raise absent(f"Path ({path}) doesn't exist.")
        if place.is_dir():
            return {"object_type": "DIRECTORY", "path": path, "object_id": 1}
        return {"object_type": "FILE", "path": path, "object_id": 2, "size": place.stat().st_size}

    # -- Files API -------------------------------------------------------------------------------------------
    def volume(self, request: Request) -> Path:
        return self.folder / "files" / unquote(request.words[0]).lstrip("/")

    def write(self, request: Request) -> Answer:
        place = self.volume(request)
        if place.exists() and request.query.get("overwrite", "false").lower() != "true":
            raise RefusedError(409, "ALREADY_EXISTS", "The file being created already exists.")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(request.raw)
        return Answer(204)

    def read(self, request: Request) -> Answer:
        place = self.volume(request)
        if not place.is_file():
            raise RefusedError(404, "NOT_FOUND", "The file being accessed is not found.")
        content = place.read_bytes()
        headers = {
            "Content-Type": "application/octet-stream",
            "Last-Modified": "Tue, 24 Nov 2026 00:00:00 GMT",
        }
        if found := request.headers.get("range"):
            start, _, end = found.removeprefix("bytes=").partition("-")
            last = min(int(end) if end else len(content) - 1, len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
            return Answer(206, content[int(start) : last + 1], headers)
        return Answer(200, content, headers)

    def is_directory(self, request: Request) -> Answer:
        if not self.volume(request).is_dir():
            raise RefusedError(404, "NOT_FOUND", "The directory being accessed is not found.")
        return Answer(200)

    def run_artifacts(self, request: Request) -> dict:
        """The older listing of a run's artifacts, to which the client falls back."""
        (root,) = (self.folder / "files" / "WorkspaceInternal").rglob(
            f"Runs/{request.body['run_id']}/artifacts"
        )
        place = root / request.body.get("path", "")
        found = sorted(place.iterdir()) if place.is_dir() else []
        sizes = [{"is_dir": True} if one.is_dir() else {"file_size": one.stat().st_size} for one in found]
        entries = [{"path": str(p.relative_to(root)), **size} for p, size in zip(found, sizes, strict=True)]
        return {"root_uri": "", "files": entries}

    def directory(self, request: Request) -> dict:
        self.is_directory(request)
        contents = []
        for place in sorted(self.volume(request).iterdir()):
            path = "/" + str(place.relative_to(self.folder / "files"))
            size = {} if place.is_dir() else {"file_size": place.stat().st_size}
            contents.append({"path": path, "name": place.name, "is_directory": place.is_dir(), **size})
        return {"contents": contents}

    def post(self, request: Request) -> dict:
        """Begin and end an upload by parts."""
        if request.query.get("action") == "initiate-upload":
            token = uuid.uuid4().hex
            self.parts[token] = self.folder / "parts" / token
            self.parts[token].mkdir(parents=True)
            return {"multipart_upload": {"session_token": token}}
        token = request.query["session_token"]
        place = self.volume(request)
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as whole:
            for part in sorted(request.body["parts"], key=lambda part: part["part_number"]):
                with (self.parts[token] / str(part["part_number"])).open("rb") as file:
                    shutil.copyfileobj(file, whole)
        shutil.rmtree(self.parts.pop(token))
        self.uploads += 1
        return {}

    def part_urls(self, request: Request) -> dict:
        token, first = request.body["session_token"], request.body["start_part_number"]
        return {
            "upload_part_urls": [
                {"url": f"{self.url}/signed/part/{token}/{number}", "part_number": number, "headers": []}
                for number in range(first, first + request.body["count"])
            ]
        }

    def part(self, request: Request) -> Answer:
        token, number = request.words
        (self.parts[token] / number).write_bytes(request.raw)
        return Answer(200, headers={"ETag": f'"{number}"'})

    def download_url(self, request: Request) -> dict:
        return {"url": f"{self.url}/signed/file{quote(request.query['path'])}", "headers": []}

    # -- DBFS ------------------------------------------------------------------------------------------------
    def dbfs_status(self, request: Request) -> dict:
        self._refuse_dbfs()
        place = self.folder / "dbfs" / request.body["path"].lstrip("/")
        if not place.exists():
            raise absent(f"No file or directory exists on path {request.body['path']}.")
        return {"path": request.body["path"], "is_dir": place.is_dir(), "file_size": place.stat().st_size}

    def dbfs_write(self, request: Request) -> dict:
        self._refuse_dbfs()
        place = self.folder / "dbfs" / request.words[0].lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(request.raw)
        return {}

    def _refuse_dbfs(self) -> None:
        if self.dbfs_is_disabled:
            raise RefusedError(
                403, "PERMISSION_DENIED", "Public DBFS root is disabled. Access is denied on path: /"
            )

    def routes(self) -> list:
        files, directories = r"/api/2\.0/fs/files(/.+)", r"/api/2\.0/fs/directories(/.+)"
        return [
            ("POST", r"/api/2\.0/workspace/mkdirs", self.mkdirs),
            ("POST", r"/api/2\.0/workspace/import", self.import_),
            ("GET", r"/api/2\.0/workspace/get-status", self.get_status),
            ("GET", r"/api/2\.0/mlflow/artifacts/list", self.run_artifacts),
            ("PUT", files, self.write),
            ("GET", files, self.read),
            ("POST", files, self.post),
            ("HEAD", directories, self.is_directory),
            ("GET", directories, self.directory),
            ("PUT", directories, lambda request: Answer(204)),
            ("POST", r"/api/2\.0/fs/create-upload-part-urls", self.part_urls),
            ("POST", r"/api/2\.0/fs/create-download-url", self.download_url),
            ("PUT", r"/signed/part/(\w+)/(\d+)", self.part),
            ("GET", r"/signed/file(/.+)", self.read),
            ("GET", r"/api/2\.0/dbfs/get-status", self.dbfs_status),
            ("POST", r"/dbfs(/.+)", self.dbfs_write),
        ]
