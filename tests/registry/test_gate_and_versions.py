"""The gate judges by figures; the registry holds each content once."""

import mlflow
import pytest
from mlflow import MlflowClient

from slmflow.compose import compose
from slmflow.config import PackageConfig
from slmflow.packaging.onnx_model import log_onnx_model
from slmflow.registry.gate import judge, threshold_for
from slmflow.registry.versions import FINGERPRINT_TAG, register


def evaluation(kl=0.001, top1=0.99, parameters=135_000_000, precision="int8", speed=50.0, measured=True):
    return {
        "candidate": "onnx",
        "parameters": parameters,
        "precision": precision,
        "fidelity": {"kl_mean": kl, "top1_agreement": top1} if measured else None,
        "cost": {"decode_tokens_per_second": speed},
    }


def gate(overrides=""):
    return compose(overrides=overrides).config.gate


@pytest.mark.parametrize(
    ("parameters", "precision", "max_kl"),
    [
        (135_000_000, "int8", 0.02),
        (135_000_000, "int4", 0.02),
        (3_800_000_000, "int8", 0.01),
        (3_800_000_000, "int4", 0.08),
        (3_800_000_000, "source", 0.08),
        (3_800_000_000, "bfloat16", 0.01),
        (None, "int8", 0.01),
    ],
)
def test_the_first_row_that_fits_size_and_precision_judges(parameters, precision, max_kl):
    assert threshold_for(gate(), parameters, precision).max_kl == max_kl


@pytest.mark.parametrize(
    ("figures", "missed"),
    [
        ({}, []),
        ({"kl": 0.02, "top1": 0.94}, []),
        ({"kl": 0.021}, ["kl_mean"]),
        ({"top1": 0.93}, ["top1_agreement"]),
        ({"kl": float("nan")}, ["kl_mean"]),
        ({"measured": False}, []),
        ({"speed": 4.0}, ["decode_tokens_per_second"]),
    ],
)
def test_a_candidate_misses_what_is_past_its_limit_and_nothing_else(figures, missed):
    verdict = judge(evaluation(**figures), gate("gate.min_decode_tokens_per_second=5"))
    assert [check.name for check in verdict.misses] == missed
    assert verdict.passed == (not missed)


def test_what_was_not_measured_says_so():
    checks = judge(evaluation(measured=False), gate()).checks
    assert str(checks[0]) == "kl_mean not measured (must be <= 0.02)"
    assert judge(evaluation(measured=False), gate()).word == "pass, fidelity not measured"
    assert judge(evaluation(), gate()).word == "pass"


@pytest.fixture
def model_id(tiny_onnx, store, tmp_path):
    with mlflow.start_run() as run:
        return log_onnx_model(tiny_onnx, "tiny", PackageConfig(), tmp_path / "scratch", {}), run.info.run_id


def registered(model_id, fingerprint="f1", alias="champion", gate="pass", is_intact=lambda version: True):
    tags = {FINGERPRINT_TAG: fingerprint, "gate": gate}
    return register("tiny-onnx", *model_id, tags, f"why {gate}", alias, is_intact)


def test_the_same_content_is_registered_once_and_other_content_anew(model_id):
    first, again, other = registered(model_id), registered(model_id), registered(model_id, "f2")
    assert (first.version, first.created) == ("1", True)
    assert (again.version, again.created) == ("1", False)
    assert (other.version, other.created) == ("2", True)
    assert MlflowClient().get_model_version_by_alias("tiny-onnx", "champion").version == 2


def test_going_back_to_earlier_content_moves_the_alias_and_adds_no_version(model_id):
    registered(model_id), registered(model_id, "f2"), registered(model_id)
    assert MlflowClient().get_model_version_by_alias("tiny-onnx", "champion").version == 1
    assert len(MlflowClient().search_model_versions("name = 'tiny-onnx'")) == 2


def test_a_version_carries_its_source_run_tags_and_description(model_id):
    registered(model_id)
    version = MlflowClient().get_model_version("tiny-onnx", "1")
    assert version.run_id == model_id[1]
    assert version.source == f"models:/{model_id[0]}"
    assert version.tags[FINGERPRINT_TAG] == "f1"
    assert version.description == "why pass"


def test_a_challenger_that_passes_later_is_champion_alone_and_its_evidence_says_so(model_id):
    registered(model_id, alias="challenger", gate="miss")
    again = registered(model_id)
    assert (again.version, again.created) == ("1", False)
    version = MlflowClient().get_model_version("tiny-onnx", "1")
    assert list(version.aliases) == ["champion"]
    assert version.tags["gate"] == "pass"
    assert version.description == "why pass"


def test_a_version_whose_model_is_damaged_is_passed_over_for_a_new_one(model_id):
    registered(model_id)
    healed = registered(model_id, is_intact=lambda version: int(version.version) > 1)
    assert (healed.version, healed.created) == ("2", True)
    assert MlflowClient().get_model_version_by_alias("tiny-onnx", "champion").version == 2


def test_of_two_versions_made_at_once_the_lower_number_stays(model_id, monkeypatch):
    """Another host registers between our look and our own version."""
    real, theirs = MlflowClient.create_model_version, []

    def slow(self, name, **words):
        if not theirs:
            theirs.append(real(self, name, **words))
        return real(self, name, **words)

    monkeypatch.setattr(MlflowClient, "create_model_version", slow)
    ours = registered(model_id)
    assert (ours.version, ours.created) == ("1", False)
    assert [v.version for v in MlflowClient().search_model_versions("name = 'tiny-onnx'")] == [1]
