"""The registry of Unity Catalog: models of three-part names, versions, aliases and tags, in memory.

Shapes are those of MLflow's `databricks_uc_registry_messages.proto`. A version's files go by the Files API, as on a
workspace that says so (`is-databricks-sdk-models-artifact-repository-enabled`); a version is PENDING until it is finalized.
"""

import re
import time
from pathlib import Path

from tests.databricks.rest import RefusedError, Request, absent, invalid

SCHEMAS = ("main.default", "ml.slm")


class Catalog:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models: dict[str, dict] = {}
        self.versions: dict[str, dict[str, dict]] = {}

    # -- models ----------------------------------------------------------------------------------------------
    def model(self, name: str) -> dict:
        if name not in self.models:
            raise absent(f"Routine or Model '{name}' does not exist.")
        return self.models[name]

    def get_schema(self, request: Request) -> dict:
        if request.words[0] not in SCHEMAS:
            raise RefusedError(404, "SCHEMA_DOES_NOT_EXIST", f"Schema '{request.words[0]}' does not exist.")
        return {"full_name": request.words[0]}

    def create_model(self, request: Request) -> dict:
        name = request.body["name"]
        parts = name.split(".")
        if len(parts) != 3 or not all(re.fullmatch(r"[^./ ]+", part) for part in parts):
            raise invalid(f"'{name}' is not a valid name: it must have three levels")
        if ".".join(parts[:2]) not in SCHEMAS:
            raise RefusedError(404, "NOT_FOUND", f"Schema '{parts[0]}.{parts[1]}' does not exist.")
        if name in self.models:
            raise RefusedError(400, "RESOURCE_ALREADY_EXISTS", f"Model '{name}' already exists.")
        now = int(time.time() * 1000)
        tags = self.tags(request.body.get("tags", []))
        times = {"creation_timestamp": now, "last_updated_timestamp": now}
        self.models[name] = {"name": name, **times, "aliases": [], "tags": tags}
        self.versions[name] = {}
        return {"registered_model": self.models[name]}

    def get_model(self, request: Request) -> dict:
        return {"registered_model": self.model(request.body["name"])}

    def search_models(self, request: Request) -> dict:
        bare = [{k: v for k, v in m.items() if k not in ("aliases", "tags")} for m in self.models.values()]
        return {"registered_models": bare}

    def update_model(self, request: Request) -> dict:
        model = self.model(request.body["name"])
        model["description"] = request.body.get("description", "")
        return {"registered_model": model}

    def delete_model(self, request: Request) -> dict:
        name = request.body["name"]
        self.model(name)
        del self.models[name], self.versions[name]
        return {}

    # -- versions --------------------------------------------------------------------------------------------
    def version(self, request: Request) -> dict:
        name, number = request.body["name"], str(request.body["version"])
        self.model(name)
        if number not in self.versions[name]:
            raise absent(f"Model version '{name}' version {number} does not exist.")
        found = self.versions[name][number]
        aliases = [a for a in self.models[name]["aliases"] if a["version"] == number]
        return {**found, "aliases": [{"alias": alias["alias"], "version": number} for alias in aliases]}

    def create_version(self, request: Request) -> dict:
        body = request.body
        self.model(body["name"])
        number = str(max((int(n) for n in self.versions[body["name"]]), default=0) + 1)
        now = int(time.time() * 1000)
        kept = {name: body[name] for name in ("name", "source", "run_id", "description") if name in body}
        self.versions[body["name"]][number] = {
            **kept, "version": number, "creation_timestamp": now, "last_updated_timestamp": now,
            "model_id": body.get("model_id", ""), "status": "PENDING_REGISTRATION", "user_id": "1",
            "storage_location": "", "tags": self.tags(body.get("tags", [])),
        }  # fmt: skip
        return {"model_version": self.versions[body["name"]][number]}

    def finalize(self, request: Request) -> dict:
        found = self.version(request)
        place = self.folder / "files" / "Models" / found["name"].replace(".", "/") / found["version"]
        model = place / "MLmodel"
        if not model.exists() or "signature" not in model.read_text():
            raise invalid("the version's files hold no MLmodel with a signature")
        self.versions[found["name"]][found["version"]]["status"] = "READY"
        return {"model_version": self.version(request)}

    def get_version(self, request: Request) -> dict:
        return {"model_version": self.version(request)}

    def search_versions(self, request: Request) -> dict:
        found = re.fullmatch(r"name\s*=\s*'([^']+)'", request.body.get("filter", ""))
        if not found:
            raise invalid("Unsupported filter query: only name = '...' is taken")
        versions = self.versions.get(found[1], {}).values()
        return {"model_versions": [{k: v for k, v in one.items() if k != "tags"} for one in versions]}

    def update_version(self, request: Request) -> dict:
        found = self.version(request)
        stored = self.versions[found["name"]][found["version"]]
        stored["description"] = request.body.get("description", "")
        return {"model_version": self.version(request)}

    def delete_version(self, request: Request) -> dict:
        found = self.version(request)
        del self.versions[found["name"]][found["version"]]
        model = self.models[found["name"]]
        model["aliases"] = [a for a in model["aliases"] if a["version"] != found["version"]]
        return {}

    def download_uri(self, request: Request) -> dict:
        return {"artifact_uri": self.version(request)["storage_location"]}

    # -- aliases and tags ------------------------------------------------------------------------------------
    def set_alias(self, request: Request) -> dict:
        found, alias = self.version(request), request.body["alias"]
        if alias.lower() == "latest" or re.fullmatch(r"v\d+", alias, re.I):
            raise invalid(f"'{alias}' is not a valid alias")
        self.delete_alias(request)
        self.models[found["name"]]["aliases"].append({"alias": alias, "version": found["version"]})
        return {}

    def delete_alias(self, request: Request) -> dict:
        model = self.model(request.body["name"])
        model["aliases"] = [a for a in model["aliases"] if a["alias"] != request.body["alias"]]
        return {}

    def by_alias(self, request: Request) -> dict:
        for alias in self.model(request.body["name"])["aliases"]:
            if alias["alias"] == request.body["alias"]:
                request.body["version"] = alias["version"]
                return self.get_version(request)
        raise absent(f"Alias '{request.body['alias']}' does not exist.")

    def tags(self, tags: list[dict]) -> list[dict]:
        for tag in tags:
            if re.search(r"[.,\-=/:]", tag["key"]) or len(tag["key"]) > 255:
                raise invalid(f"tag key '{tag['key']}' has characters that are not taken: . , - = / :")
            if len(tag.get("value", "")) > 1000:
                raise invalid(f"the value of tag '{tag['key']}' is longer than 1000 characters")
        return tags

    def set_tag(self, place: dict, body: dict) -> dict:
        tag = {"key": body["key"], "value": body.get("value", "")}
        self.tags([tag])
        place["tags"] = [t for t in place["tags"] if t["key"] != tag["key"]] + [tag]
        return {}

    def set_model_tag(self, request: Request) -> dict:
        return self.set_tag(self.model(request.body["name"]), request.body)

    def set_version_tag(self, request: Request) -> dict:
        found = self.version(request)
        return self.set_tag(self.versions[found["name"]][found["version"]], request.body)

    def delete_model_tag(self, request: Request) -> dict:
        model = self.model(request.body["name"])
        model["tags"] = [t for t in model["tags"] if t["key"] != request.body["key"]]
        return {}

    def delete_version_tag(self, request: Request) -> dict:
        found = self.version(request)
        stored = self.versions[found["name"]][found["version"]]
        stored["tags"] = [t for t in stored["tags"] if t["key"] != request.body["key"]]
        return {}

    def routes(self) -> list:
        base = r"/api/2\.0/mlflow/unity-catalog"
        models, versions = f"{base}/registered-models", f"{base}/model-versions"
        sdk = {"is_databricks_sdk_models_artifact_repository_enabled": True}
        return [
            ("GET", r"/api/2\.1/unity-catalog/schemas/(.+)", self.get_schema),
            ("POST", f"{models}/create", self.create_model),
            ("GET", f"{models}/get", self.get_model),
            ("GET", f"{models}/search", self.search_models),
            ("PATCH", f"{models}/update", self.update_model),
            ("DELETE", f"{models}/delete", self.delete_model),
            ("POST", f"{models}/alias", self.set_alias),
            ("DELETE", f"{models}/alias", self.delete_alias),
            ("GET", f"{models}/alias", self.by_alias),
            ("POST", f"{models}/set-tag", self.set_model_tag),
            ("DELETE", f"{models}/delete-tag", self.delete_model_tag),
            ("GET", f"{models}:is-databricks-sdk-models-artifact-repository-enabled", lambda _: sdk),
            ("POST", f"{versions}/create", self.create_version),
            ("GET", f"{versions}/get", self.get_version),
            ("GET", f"{versions}/search", self.search_versions),
            ("PATCH", f"{versions}/update", self.update_version),
            ("DELETE", f"{versions}/delete", self.delete_version),
            ("POST", f"{versions}/finalize", self.finalize),
            ("GET", f"{versions}/get-download-uri", self.download_uri),
            ("POST", f"{versions}/set-tag", self.set_version_tag),
            ("DELETE", f"{versions}/delete-tag", self.delete_version_tag),
            ("POST", f"{versions}/emit-lineage", lambda _: {}),
        ]
