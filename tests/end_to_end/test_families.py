"""Two families of 2026 go from a folder to two champions, as a user types it."""

import mlflow
import pytest
from mlflow import MlflowClient

from slmflow.workflow.runs import json_artifact, upstream_of
from tests.conftest import run_warm, store_uri
from tests.families import make_family


@pytest.fixture(scope="module", params=["Qwen3.5", "LFM2-MoE"])
def road(request, tmp_path_factory):
    """The store after the whole road of a family, and its name."""
    place = tmp_path_factory.mktemp("road")
    make_family(request.param, place / "model")
    words = ["-e", "register", "-P", f"model={place / 'model'}", "-P", "export=fp32_cpu"]
    done = run_warm([*words, "-P", "evaluate=quick", "-P", "model.name=family"], place)
    assert done.returncode == 0, done.stderr[-3000:]
    mlflow.set_tracking_uri(store_uri(place))
    yield request.param, done.stdout + done.stderr
    mlflow.set_tracking_uri(None)


def test_both_flavours_become_champion(road):
    client = MlflowClient()
    for flavour in ("onnx", "pipeline"):
        version = client.get_model_version_by_alias(f"family-{flavour}", "champion")
        assert "Gate: pass" in version.description


def test_what_is_left_out_of_a_model_that_sees_is_said_in_record_version_and_page(road):
    name, said = road
    client = MlflowClient()
    version = client.get_model_version_by_alias("family-onnx", "champion")
    export = upstream_of(client.get_run(version.run_id), "export_run")
    left = json_artifact(upstream_of(export, "fetch_run"), "manifest.json").get("left_out")
    if name == "Qwen3.5":
        assert set(left) == {"visual"}
        assert f"its text part is taken; left out: visual ({left['visual']})" in said
        assert f"Its text part alone: visual ({left['visual']} tensors) are left out." in version.description
    else:
        assert left is None
        assert "text part" not in version.description


def test_the_champion_answers_a_chat_and_its_next_turn(road):
    model = mlflow.pyfunc.load_model("models:/family-onnx@champion")
    chat = [{"role": "user", "content": "Hello there"}]
    asked = {"max_tokens": 6, "temperature": 0.0}
    first = model.predict({"messages": chat, **asked})[0]["choices"][0]["message"]
    chat += [first, {"role": "user", "content": "And then?"}]
    again = [model.predict({"messages": chat, **asked})[0]["choices"][0]["message"] for _ in range(2)]
    assert again[0] == again[1], "with what was kept of the first turn, and without"
