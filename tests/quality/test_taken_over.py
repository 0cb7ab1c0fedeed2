"""An evaluation whose parts an earlier run measured says what they were measured on all the same."""

import json
from types import SimpleNamespace

import mlflow
from mlflow import MlflowClient

from slmflow.compose import compose
from slmflow.quality.items import Items, read_items
from slmflow.quality.order import first
from slmflow.workflow import parts, runs
from slmflow.workflow.asked import asked_tags
from slmflow.workflow.enough import ASKED_TAG
from steps import evaluate

FIGURES = {
    "fidelity": {"kl_mean": 0.1, "top1_agreement": 0.9, "windows_digest": "d", "tokens": 510.0},
    "tasks": {"digest": "t", "items": 200, "score": 0.5, "score_se": 0.1, "kinds": {}},
    "cost": {"decode_tokens_per_second": 9.0},
}
ASKED = {
    "fidelity": {"windows": 2, "of_windows": 5, "places": [0, 4]},
    "tasks": {"items": 200, "of_items": 250},
    "cost": {},
}


def test_the_items_are_an_input_also_where_their_figures_were_taken_over(store, tmp_path, monkeypatch):
    def taken(part, run, context, asked):
        asked |= ASKED[part]
        return FIGURES[part]

    monkeypatch.setattr(parts, "part_keys", lambda *arguments: dict.fromkeys(FIGURES, "key"))
    monkeypatch.setattr(parts, "reference_of", lambda *arguments: {})
    monkeypatch.setattr(parts, "find_parts", lambda keys, ask, full: dict.fromkeys(keys))
    monkeypatch.setattr(parts, "take_part", taken)
    composition = compose(model="tiny_phi3", overrides="evaluate.items=shipped")
    with mlflow.start_run() as active:
        logged = dict.fromkeys(evaluate.ORIGIN, "x") | {"candidate": "pipeline", "precision": "float32"}
        logged |= {"model_id": mlflow.initialize_logged_model(name="m").model_id, "parameters": 200_000}
        monkeypatch.setattr(runs, "json_artifact", lambda run, name: logged)
        context = SimpleNamespace(
            upstream={"logged_run": None},
            config=composition.config,
            composition=composition,
            parts={},
            outputs=tmp_path,
        )
        evaluate.work(context)
    run = MlflowClient().get_run(active.info.run_id)
    (entry,) = run.inputs.dataset_inputs
    whole = read_items("shipped")
    assert entry.dataset.digest == Items(tuple(first(whole.rows, 200))).digest[:36]
    assert run.data.metrics["tasks.score"] == 0.5
    assert run.data.metrics["tasks.items"] == 200
    assert "windows_digest" not in run.data.metrics
    written = json.loads((tmp_path / "evaluation.json").read_text())
    asked = {"minutes": None, **ASKED["fidelity"], **ASKED["tasks"]}
    assert written["asked"] == asked
    assert run.data.tags[ASKED_TAG] == asked_tags(asked, 200_000)[ASKED_TAG]
