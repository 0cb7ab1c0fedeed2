"""List what no alias and no registered version stands on, and delete it when told to.

    mlflow run . -e gc --env-manager local
    mlflow run . -e gc --env-manager local -P delete=true

Dry unless `delete=true`. Deleted runs and LoggedModels are only marked: `mlflow runs restore` brings a run
back (its LoggedModel is made anew), and the `mlflow gc` line that is printed frees the disk. A registered
model or version is never touched, nor anything that one was made from, nor what a running driver has.
Environments beside the main one (load tests, recorded versions, exporters) are deleted when nobody used them
for 30 days; what needs one again makes it again.
"""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow import MlflowClient
from tqdm import tqdm

from slmflow.artifacts import folder_of
from slmflow.environments.maker import remove_unused, unused_for
from slmflow.errors import SlmflowError, exit_status
from slmflow.files import files_under
from slmflow.registry.versions import versions_of
from slmflow.words import read_words
from slmflow.workflow import runs
from slmflow.workflow.command import command_run
from slmflow.workflow.steps import STEPS
from slmflow.workflow.tags import KIND_TAG, STEP_TAG, upstream_tag

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

PARAMETERS = ("delete",)
KINDS = ("driver", "step")
UNUSED_DAYS = 30


def lineage(kept: set[str], by_id: dict[str, Run]) -> set[str]:
    """The runs in `kept`, all that they were made from, and the drivers that made any of them."""
    reached: set[str] = set()
    stack = list(kept)
    while stack:
        run_id = stack.pop()
        run = by_id.get(run_id)
        if run is None or run_id in reached:
            continue
        reached.add(run_id)
        tags = run.data.tags
        inputs = [upstream_tag(parameter) for step in STEPS.values() for parameter in step.inputs]
        stack += [tags[name] for name in (*inputs, runs.PARENT_TAG) if name in tags]
    return reached


def all_versions(client: MlflowClient) -> list[ModelVersion]:
    """Every version of every registered model."""
    models = pages(client.search_registered_models)
    return [version for model in models for version in versions_of(client, model.name)]


def evidence_of(versions: list[ModelVersion]) -> set[str]:
    """The runs that registered versions name: who logged each, and who evaluated it."""
    named = [run for version in versions for run in (version.run_id, version.tags.get("evaluate_run"))]
    return {run for run in named if run}


def _promotions(ours: list[Run], reached: set[str]) -> set[str]:
    """The runs that registered what is kept: all that they took is among it."""
    inputs = [upstream_tag(parameter) for parameter in STEPS["register"].inputs]
    found = set()
    for run in ours:
        took = [run.data.tags[name] for name in inputs if name in run.data.tags]
        if run.data.tags.get(STEP_TAG) == "register" and took and set(took) <= reached:
            found.add(run.info.run_id)
    return found


def pages(search: Any, *words: Any) -> Iterator[Any]:
    """Every result of one of the client's paged searches."""
    token: str | None = None
    while True:
        page = search(*words, page_token=token) if token else search(*words)
        yield from page
        token = page.token
        if not token:
            return


def run(argv: list[str]) -> int:
    """List, and delete what may be deleted. Raises SlmflowError for bad words."""
    arguments = read_words("gc", argv, PARAMETERS).declared
    delete = arguments.get("delete") or "false"
    if delete not in ("true", "false"):
        raise SlmflowError(f"delete={delete}: must be true or false")
    with command_run("gc") as here:
        client = MlflowClient()
        experiment = here.info.experiment_id
        ours = [
            found
            for found in pages(client.search_runs, [experiment])
            if found.data.tags.get(KIND_TAG) in KINDS
        ]
        running = [found for found in ours if found.info.status == "RUNNING"]
        ids = {found.info.run_id for found in running}
        versions = all_versions(client)
        kept = evidence_of(versions) | ids
        kept |= {found.info.run_id for found in ours if found.data.tags.get(runs.PARENT_TAG) in ids}
        kept |= {item["run_id"] for found in running for item in runs.items_of(found) if item["run_id"]}
        by_id = {found.info.run_id: found for found in ours}
        reached = lineage(kept, by_id)
        reached |= lineage(_promotions(ours, reached), by_id)
        loose = [found for found in ours if found.info.run_id not in reached]
        models = _models_of(client, experiment, {found.info.run_id for found in loose}, versions)
        _show(loose, models)
        old = unused_for(UNUSED_DAYS)
        _show_environments(old)
        gone = {"environments": [str(folder) for folder, _ in old]}
        mlflow.log_dict({"runs": [r.info.run_id for r in loose], "models": sorted(models), **gone}, "gc.json")
        if delete == "true":
            _delete(client, loose, models)
            for folder, _ in tqdm(old, "deleting environments", disable=not old):
                remove_unused(folder, UNUSED_DAYS)
        elif loose or old:
            print("nothing was deleted: add -P delete=true")
    return 0


def _models_of(
    client: MlflowClient, experiment: str, run_ids: set[str], versions: list[ModelVersion]
) -> dict[str, str]:
    """LoggedModels that those runs made and that no registered version is made of: id to location."""
    registered = {version.source.removeprefix("models:/") for version in versions}
    return {
        model.model_id: model.artifact_location
        for model in pages(lambda **words: client.search_logged_models([experiment], **words))
        if model.source_run_id in run_ids and model.model_id not in registered
    }


def _show(loose: list[Run], models: dict[str, str]) -> None:
    for found in loose:
        print(f"{found.info.run_id}  {found.info.status:<8}  {found.info.run_name}")
    print(f"{len(loose)} runs and {len(models)} LoggedModels that no registered version stands on", end="")
    places = map(folder_of, [*(r.info.artifact_uri for r in loose), *models.values()])
    print(f", {_freed([place for place in places if place is not None and place.is_dir()]) / 1e6:,.0f} MB")


def _show_environments(old: list[tuple[Path, str]]) -> None:
    if old:
        print("\n".join(f"{folder}  environment of {words}" for folder, words in old))
        freed = _freed([folder for folder, _ in old]) / 1e6
        print(f"{len(old)} environments that nobody used for {UNUSED_DAYS} days, {freed:,.0f} MB")


def _freed(folders: list[Path]) -> int:
    """Bytes that would be free: files with another hard link elsewhere stay."""
    links: dict[int, list[int]] = {}
    for folder in folders:
        for path in files_under(folder):
            stat = path.lstat()
            seen = links.setdefault(stat.st_ino, [stat.st_nlink, 0, stat.st_size])
            seen[1] += 1
    return sum(size for all_links, ours, size in links.values() if ours >= all_links)


def _delete(client: MlflowClient, loose: list[Run], models: dict[str, str]) -> None:
    if not loose:
        return
    for model_id in models:
        client.delete_logged_model(model_id)
    for found in tqdm(loose, "deleting"):
        client.delete_run(found.info.run_id)
    ids = ",".join(found.info.run_id for found in loose)
    words = ["mlflow gc", f"--backend-store-uri {shlex.quote(runs.store_name())}", f"--run-ids {ids}"]
    if models:
        words.append(f"--logged-model-ids {','.join(models)}")
    where = (
        "" if runs.store_name().startswith("sqlite") else ", on the server, with the credentials of its store"
    )
    print(f"marked as deleted. To free the disk{where}:\n  {' '.join(words)}")
    print("To take it back before that, for each run (its LoggedModels are made anew when needed):")
    print("  mlflow runs restore --run-id <id>")


if __name__ == "__main__":
    sys.exit(exit_status("gc", lambda: run(sys.argv[1:])))
