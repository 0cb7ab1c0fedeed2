"""Finished step runs made by hand, as `run_step` leaves them: for tests of what reads runs."""

from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from mlflow import MlflowClient

from slmflow.files import write_json
from slmflow.workflow.outputs import INDEX, INDEX_TAG, build_index, index_digest, publish
from slmflow.workflow.tags import FINGERPRINT, KIND_TAG, NODE_TAG, STEP_TAG, key_tags, upstream_tag


def finished(step, files, *, key=None, upstream=None, keys=None, config=None, identity=None, nested=False):
    """A finished step's run with these files (name to text) as its indexed outputs.

    `upstream` is parameter to run id, `keys` parameter to the key that the upstream had, `config` what
    the step was configured with, `identity` what names in it led to.
    """
    with mlflow.start_run(run_name=step, nested=nested) as active, TemporaryDirectory() as folder:
        staged = Path(folder) / "staged"
        for name, text in files.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_text(text)
        staged.mkdir(exist_ok=True)
        ingredients = {"config": config or {}, "upstream": keys or {}, "identity": identity or {}}
        write_json(staged / FINGERPRINT, ingredients)
        published = publish(staged, active.info.artifact_uri)
        index = build_index(published, active.info.artifact_uri, None)
        mlflow.log_artifact(str(write_json(Path(folder) / INDEX, index)))
        tags = {KIND_TAG: "step", STEP_TAG: step, NODE_TAG: step, INDEX_TAG: index_digest(index)}
        tags |= key_tags(key) if key else {}
        tags |= {upstream_tag(parameter): run_id for parameter, run_id in (upstream or {}).items()}
        mlflow.set_tags(tags)
    return MlflowClient().get_run(active.info.run_id)
