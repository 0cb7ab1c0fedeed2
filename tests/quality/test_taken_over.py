"""An evaluation whose parts an earlier run measured says what they were measured on all the same."""

from types import SimpleNamespace

import mlflow
from mlflow import MlflowClient

from slmflow.compose import compose
from slmflow.quality.items import read_items
from slmflow.workflow import parts, runs
from steps import evaluate

FIGURES = {
    "fidelity": {"kl_mean": 0.1, "top1_agreement": 0.9, "windows_digest": "d"},
    "tasks": {"digest": "t", "score": 0.5, "score_se": 0.1, "kinds": {}},
    "cost": {"decode_tokens_per_second": 9.0},
}


def test_the_items_are_an_input_also_where_their_figures_were_taken_over(store, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "part_keys", lambda *arguments: dict.fromkeys(FIGURES, "key"))
    monkeypatch.setattr(parts, "reference_of", lambda *arguments: {})
    monkeypatch.setattr(parts, "find_parts", lambda keys, full: dict.fromkeys(keys))
    monkeypatch.setattr(parts, "take_part", lambda part, run, context: FIGURES[part])
    composition = compose(model="tiny_phi3", overrides="evaluate.items=shipped")
    with mlflow.start_run() as active:
        logged = dict.fromkeys(evaluate.ORIGIN, "x") | {"candidate": "pipeline", "precision": "float32"}
        logged["model_id"] = mlflow.initialize_logged_model(name="m").model_id
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
    assert entry.dataset.digest == read_items("shipped").digest[:36]
    assert run.data.metrics["tasks.score"] == 0.5
    assert "windows_digest" not in run.data.metrics
