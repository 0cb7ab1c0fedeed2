"""The registry holds each content once, as challenger first."""

from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry.model_version_search import ModelVersionSearch
from mlflow.store.entities import PagedList

from slmflow.config import PackageConfig
from slmflow.errors import SlmflowError
from slmflow.packaging.onnx_model import log_onnx_model
from slmflow.packaging.weights import weights_of
from slmflow.registry.aliases import Moved, promote, roll_back, standing
from slmflow.registry.names import is_catalog, registered_name, registry_tags
from slmflow.registry.versions import FINGERPRINT_TAG, Content, find, register
from slmflow.workflow.evidence import refuse_incomplete
from tests.registry.conftest import NAME, whole


@pytest.fixture
def model(tiny_onnx, store, tmp_path):
    with mlflow.start_run() as run:
        return log_onnx_model(tiny_onnx, "tiny", PackageConfig(), tmp_path / "scratch", {}), run.info.run_id


def registered(model, fingerprint="f1", gate="pass", is_intact=whole, **words):
    tags = {FINGERPRINT_TAG: fingerprint, "gate": gate}
    champion = standing(MlflowClient(), NAME).champion
    content = Content(NAME, *model, tags, f"why {gate}")
    return register(content, words.get("champion", champion), is_intact, promotes=words.get("promotes", True))


def aliases():
    now = standing(MlflowClient(), NAME)
    return now.champion, now.previous, now.challenger


def test_the_same_content_is_registered_once_and_other_content_anew(model):
    first, again, other = registered(model), registered(model), registered(model, "f2")
    assert (first.version, first.created, first.alias) == ("1", True, "champion")
    assert (again.version, again.created, again.alias) == ("1", False, "champion")
    assert (other.version, other.created) == ("2", True)
    assert aliases() == ("2", "1", None)


def test_registering_the_champion_again_writes_nothing(model):
    registered(model), registered(model, "f2")
    client = MlflowClient()

    def everything():
        versions = [dict(version) for version in client.search_model_versions(f"name = '{NAME}'")]
        return repr((dict(client.get_registered_model(NAME)), versions))

    before = everything()
    registered(model, "f2")
    assert everything() == before


def test_going_back_to_earlier_content_moves_the_alias_and_adds_no_version(model):
    registered(model), registered(model, "f2"), registered(model)
    assert aliases() == ("1", "2", None)
    assert len(MlflowClient().search_model_versions(f"name = '{NAME}'")) == 2


def test_a_version_carries_its_source_run_tags_and_description(model):
    registered(model)
    version = MlflowClient().get_model_version(NAME, "1")
    assert version.run_id == model[1]
    assert version.source == f"models:/{model[0]}"
    assert version.tags[FINGERPRINT_TAG] == "f1"
    assert version.description == "why pass"


def test_what_is_not_promoted_is_challenger_and_the_champion_stays(model):
    registered(model)
    waiting = registered(model, "f2", promotes=False)
    assert waiting.alias == "challenger"
    assert aliases() == ("1", None, "2")
    newer = registered(model, "f3", promotes=False)
    assert newer.alias == "challenger"
    assert aliases() == ("1", None, "3")


def test_a_challenger_that_passes_later_is_champion_alone_and_its_evidence_says_so(model):
    registered(model, promotes=False, gate="miss")
    again = registered(model)
    assert (again.version, again.created) == ("1", False)
    version = MlflowClient().get_model_version(NAME, "1")
    assert list(version.aliases) == ["champion"]
    assert version.tags["gate"] == "pass"
    assert version.description == "why pass"


def test_a_champion_that_misses_today_is_not_its_own_challenger(model):
    registered(model)
    again = registered(model, promotes=False, gate="miss")
    assert again.alias == "champion"
    assert aliases() == ("1", None, None)
    assert MlflowClient().get_model_version(NAME, "1").tags["gate"] == "miss"


def test_what_was_rolled_back_is_not_promoted_again_by_a_run(model):
    registered(model), registered(model, "f2")
    roll_back(MlflowClient(), NAME, whole)
    again = registered(model, "f2")
    assert again.rolled_back
    assert (again.version, again.alias, again.created) == ("2", "", False)
    assert aliases() == ("1", "2", None)


def test_what_was_rolled_back_stays_so_when_its_files_are_damaged(model):
    registered(model), registered(model, "f2")
    roll_back(MlflowClient(), NAME, whole)
    healed = registered(model, "f2", is_intact=lambda version: int(version.version) != 2)
    assert (healed.version, healed.created) == ("3", True)
    assert healed.rolled_back
    assert aliases() == ("1", "2", None)
    promote(MlflowClient(), NAME, "3", "1", whole)
    again = registered(model, "f2", is_intact=lambda version: int(version.version) not in (2, 3))
    assert (again.version, again.alias, again.rolled_back) == ("4", "champion", ""), "a hand promoted it"
    assert registered(model, "f2").rolled_back, "the files of the one that was rolled back are whole again"
    assert aliases()[0] == "4"


def test_evidence_that_was_written_by_halves_is_written_again(model, monkeypatch):
    registered(model, promotes=False, gate="miss")

    def dies(*arguments, **words):
        raise ConnectionError

    monkeypatch.setattr(MlflowClient, "update_model_version", dies)
    with pytest.raises(ConnectionError):
        registered(model)
    monkeypatch.undo()
    registered(model)
    version = MlflowClient().get_model_version(NAME, "1")
    assert (version.tags["gate"], version.description) == ("pass", "why pass")


def test_a_version_is_not_promoted_on_a_decision_about_another_champion(model):
    registered(model)
    with pytest.raises(Moved):
        registered(model, "f2", champion=None)
    assert aliases() == ("1", None, "2")


def test_a_version_deleted_by_hand_is_made_anew(model):
    registered(model)
    MlflowClient().delete_model_version(NAME, "1")
    again = registered(model)
    assert (again.version, again.created, again.alias) == ("2", True, "champion")


def test_a_version_whose_model_is_damaged_is_passed_over_for_a_new_one(model):
    registered(model)
    healed = registered(model, is_intact=lambda version: int(version.version) > 1)
    assert (healed.version, healed.created) == ("2", True)
    assert aliases() == ("2", None, None), "what is damaged is nothing to go back to"


def test_of_two_versions_made_at_once_the_lower_number_stays(model, monkeypatch):
    """Another host registers between our look and our own version."""
    real, theirs = MlflowClient.create_model_version, []

    def slow(self, name, **words):
        if not theirs:
            theirs.append(real(self, name, **words))
        return real(self, name, **words)

    monkeypatch.setattr(MlflowClient, "create_model_version", slow)
    ours = registered(model)
    assert (ours.version, ours.created) == ("1", False)
    assert [v.version for v in MlflowClient().search_model_versions(f"name = '{NAME}'")] == [1]


def test_more_versions_than_a_page_are_looked_through(make_versions, monkeypatch):
    client = make_versions(5)
    client.set_model_version_tag(NAME, "5", FINGERPRINT_TAG, "f1")
    real = MlflowClient.search_model_versions
    monkeypatch.setattr(
        MlflowClient, "search_model_versions", lambda *a, **w: real(*a, **{**w, "max_results": 2})
    )
    content = Content(NAME, "m-1", "r", {FINGERPRINT_TAG: "f1", "gate": "pass"}, "")
    assert register(content, None, whole, promotes=True).version == "5"


def test_a_model_with_weights_and_a_signature_is_complete_and_one_without_is_refused(model, store):
    refuse_incomplete(model[0], weights_of(model[0]))
    with mlflow.start_run():
        bare = mlflow.pyfunc.log_model(
            name="bare", python_model=lambda model_input: model_input, pip_requirements=[]
        )
    with pytest.raises(SlmflowError, match="has no weights"):
        refuse_incomplete(bare.model_id, weights_of(bare.model_id))
    (Path(bare.artifact_path.removeprefix("file://")) / "model.onnx").write_text("weights")
    with pytest.raises(SlmflowError, match="signature has no inputs or no outputs"):
        refuse_incomplete(bare.model_id, weights_of(bare.model_id))


@pytest.mark.parametrize("registry", ["databricks-uc", "databricks-uc://profile"])
def test_unity_catalog_takes_three_parts_and_says_so_otherwise(registry):
    assert is_catalog(registry)
    assert registered_name("main.slm.smollm2-135m", "onnx", registry) == "main.slm.smollm2-135m-onnx"
    for name in ("smollm2-135m", "main.slm.qwen3-0.6b", "slm.smollm2"):
        with pytest.raises(SlmflowError, match=r"give backend.schema=<catalog>.<schema>"):
            registered_name(name, "onnx", registry)


def test_the_open_unity_catalog_is_refused_as_it_has_no_aliases():
    with pytest.raises(SlmflowError, match="no aliases and no tags in the open Unity Catalog"):
        registered_name("main.slm.smollm2", "onnx", "uc:http://localhost:8080")


def test_versions_whose_search_tells_no_tags_are_asked_for_one_by_one(make_versions, monkeypatch):
    """As in Unity Catalog, whose search answers with ModelVersionSearch."""
    client = make_versions(3)
    client.set_model_version_tag(NAME, "3", "slmflow_fingerprint", "f1")
    real = MlflowClient.search_model_versions

    def bare(*arguments, **words):
        page = real(*arguments, **words)
        found = [ModelVersionSearch(v.name, v.version, v.creation_timestamp) for v in page]
        assert not isinstance(found[0].tags, dict), "a method that raises"
        return PagedList(found, page.token)

    monkeypatch.setattr(MlflowClient, "search_model_versions", bare)
    monkeypatch.setattr(mlflow, "get_registry_uri", lambda: "databricks-uc")
    assert str(find(client, NAME, "f1", whole).version) == "3"


def test_unity_catalog_takes_fewer_characters_in_tags():
    tags = {"metric.kl_mean": "0.1", "slmflow.fingerprint": "f", "gate.json": "{}" * 1000}
    assert registry_tags(tags, "databricks-uc") == {"metric_kl_mean": "0.1", "slmflow_fingerprint": "f"}
    assert registry_tags(tags, "sqlite:////x.db") == tags


def test_other_registries_take_any_name():
    assert not is_catalog("http://unity.example/uc")
    assert registered_name("qwen3-0.6b", "onnx", "http://localhost:5000") == "qwen3-0.6b-onnx"
