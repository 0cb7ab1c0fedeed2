"""An adapter is merged into the weights that every later step reads, or refused with what is wrong."""

import json
import shutil

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file

from slmflow.compose import compose
from slmflow.config import AdapterConfig
from slmflow.errors import SlmflowError
from slmflow.files import digests_under
from slmflow.packaging.pipeline_model import log_pipeline_model
from slmflow.quality.fidelity import kl_divergence, log_softmax
from slmflow.quality.reference import reference_logits
from slmflow.sources.adapter import merge, take
from slmflow.sources.adapter_changes import CONFIG, WEIGHTS
from slmflow.sources.huggingface import make_huggingface
from slmflow.sources.identity import adapter_identity
from tests.export.stock import strong_model
from tests.families import make_family

NAMES = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]
PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "target_modules": ["q_proj"]}


@pytest.fixture(scope="module")
def model(make_model):
    return make_model("model.source.architecture=llama")


@pytest.fixture
def adapter(model, tmp_path):
    """A function that writes an adapter for the model, its configuration and tensors changed at will."""

    def make(change=lambda tensors: None, **config):
        folder = tmp_path / "adapter"
        folder.mkdir(exist_ok=True)
        generator = torch.Generator().manual_seed(1)
        weights = load_file(model / "model.safetensors")
        tensors = {}
        for name in NAMES:
            rows, columns = weights[f"{name}.weight"].shape
            for side, shape in {"A": (4, columns), "B": (rows, 4)}.items():
                values = torch.randn(shape, generator=generator)
                tensors[f"base_model.model.{name}.lora_{side}.weight"] = values
        change(tensors)
        save_file(tensors, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps({**PLAIN, **config}))
        return folder

    return make


@pytest.mark.parametrize(
    ("config", "scale"), [({}, 2.0), ({"use_rslora": True}, 4.0), ({"lora_alpha": 1}, 0.25)]
)
def test_adapted_weights_are_w_plus_scale_b_a_and_the_others_as_they_were(
    model, adapter, tmp_path, config, scale
):
    folder = adapter(**config)
    assert merge(model, folder, tmp_path / "merged") == 2
    before, after = (
        load_file(model / "model.safetensors"),
        load_file(tmp_path / "merged" / "model.safetensors"),
    )
    factors = load_file(folder / WEIGHTS)
    assert before.keys() == after.keys()
    for name, weight in before.items():
        module = name.removesuffix(".weight")
        if module in NAMES:
            down, up = (factors[f"base_model.model.{module}.lora_{side}.weight"] for side in "AB")
            weight = weight + scale * (up @ down)
        assert torch.equal(after[name], weight), name
    others = {name for name in digests_under(model) if name != "model.safetensors"}
    assert {name: digests_under(model)[name] for name in others} == {
        name: digests_under(tmp_path / "merged")[name] for name in others
    }


def test_the_merged_model_computes_otherwise_and_the_source_is_left_alone(model, adapter, tmp_path):
    before = digests_under(model)
    merge(model, adapter(), tmp_path / "merged")
    plain, merged = (next(reference_logits(folder, [[1, 2, 3]])) for folder in (model, tmp_path / "merged"))
    assert abs(plain - merged).max() > 0.01
    assert digests_under(model) == before


def rename(tensors):
    tensors["base_model.model.model.layers.9.mlp.up_proj.lora_A.weight"] = torch.zeros(4, 64)
    tensors["base_model.model.model.layers.9.mlp.up_proj.lora_B.weight"] = torch.zeros(128, 4)


def widen(tensors):
    tensors[f"base_model.model.{NAMES[0]}.lora_A.weight"] = torch.zeros(4, 65)


@pytest.mark.parametrize(
    ("change", "config", "said"),
    [
        (None, {"peft_type": "LOHA"}, "is of type LOHA: only LORA can be merged"),
        (None, {"use_qalora": True}, "has use_qalora=True, which cannot be merged into the weights exactly"),
        (None, {"target_parameters": ["experts"]}, "has target_parameters="),
        (None, {"bias": "some"}, "has bias='some': known are none, all, lora_only"),
        (None, {"rank_pattern": {"q_proj": "many"}}, "does not give r and lora_alpha as numbers"),
        (None, {"init_lora_weights": "pissa"}, "init_lora_weights='pissa', which changes the weights"),
        (None, {"alora_invocation_tokens": [1]}, r"has alora_invocation_tokens=\[1\]"),
        (None, {"r": 0}, "does not give r and lora_alpha as numbers"),
        (None, {"lora_alpha": None}, "does not give r and lora_alpha as numbers"),
        (rename, {}, r"changes model\.layers\.9\.mlp\.up_proj\.weight, which the model does not have"),
        (widen, {}, r"q_proj\.weight is 64 x 4 by 4 x 65, the model's 64 x 64: it was trained on"),
        (lambda t: t.pop(f"base_model.model.{NAMES[0]}.lora_B.weight"), {}, "without its other factor"),
        (lambda t: t.update(lm_head=torch.zeros(1)), {}, "holds lm_head, which is no part of a LoRA"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(model, adapter, tmp_path, change, config, said):
    folder = adapter(change or (lambda tensors: None), **config)
    with pytest.raises(SlmflowError, match=said):
        merge(model, folder, tmp_path / "merged")


def test_settings_that_are_empty_refuse_nothing(model, adapter, tmp_path):
    assert merge(model, adapter(modules_to_save=[], rank_pattern=None), tmp_path / "merged") == 2


def test_only_the_models_own_files_are_merged_and_read(model, adapter, tmp_path):
    """Another safetensors file beside the model's, with tensors of the same names."""
    folder = shutil.copytree(model, tmp_path / "two")
    stray = {name: torch.zeros_like(value) for name, value in load_file(model / "model.safetensors").items()}
    save_file(stray, folder / "old.safetensors")
    merge(folder, adapter(), tmp_path / "merged")
    merge(model, adapter(), tmp_path / "expected")
    found, expected = (digests_under(tmp_path / name) for name in ("merged", "expected"))
    assert found["model.safetensors"] == expected["model.safetensors"]
    plain, same = (next(reference_logits(source, [[1, 2, 3]])) for source in (model, folder))
    assert (plain == same).all()


def test_the_head_of_a_tied_model_is_not_adapted(make_model, adapter, tmp_path):
    def head(tensors):
        tensors["base_model.model.lm_head.lora_A.weight"] = torch.zeros(4, 64)
        tensors["base_model.model.lm_head.lora_B.weight"] = torch.zeros(1024, 4)

    tied = make_model("model.source.architecture=llama model.source.tied=true")
    with pytest.raises(SlmflowError, match=r"lm_head\.weight, which this model shares"):
        merge(tied, adapter(head), tmp_path / "merged")


def test_an_adapter_is_taken_from_a_folder_and_one_without_weights_refused(adapter, tmp_path):
    folder = adapter()
    (folder / "adapter_model.bin").write_bytes(b"pickle")
    taken = take(AdapterConfig(path=str(folder)), tmp_path / "taken")
    assert sorted(path.name for path in taken.folder.iterdir()) == [CONFIG, WEIGHTS]
    (folder / WEIGHTS).unlink()
    with pytest.raises(SlmflowError, match=rf"model\.adapter\.path=.*: has no {WEIGHTS}"):
        take(AdapterConfig(path=str(folder)), tmp_path / "again")


def merged(model, taken, folder):
    merge(model, taken.folder, folder)
    return load_file(folder / "model.safetensors")


def test_an_adapter_among_a_runs_artifacts_is_taken(model, adapter, store, tmp_path):
    folder = adapter()
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(folder), "lora")
    uri = f"runs:/{run.info.run_id}/lora"
    taken = take(AdapterConfig(uri=uri), tmp_path / "taken")
    assert digests_under(taken.folder) == digests_under(folder)
    assert adapter_identity(AdapterConfig(uri=uri)).content == {"adapter.uri": uri}


def test_an_adapter_that_was_trained_and_logged_with_mlflow_is_merged_as_peft_merges_it(
    model, store, tmp_path
):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    trained = get_peft_model(base, config)
    for name, weight in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    with mlflow.start_run():
        logged = mlflow.transformers.log_model(
            {"model": trained, "tokenizer": AutoTokenizer.from_pretrained(model)},
            name="adapted",
            task="text-generation",
            registered_model_name="adapted",
            pip_requirements=["peft"],
        )
    MlflowClient().set_registered_model_alias("adapted", "best", "1")
    expected = trained.merge_and_unload().state_dict()
    for uri in (f"models:/{logged.model_id}", "models:/adapted@best"):
        place = tmp_path / uri.replace("/", "-")
        found = merged(model, take(AdapterConfig(uri=uri), place / "taken"), place / "merged")
        assert not torch.equal(
            found[f"{NAMES[0]}.weight"], load_file(model / "model.safetensors")[f"{NAMES[0]}.weight"]
        )
        for name, weight in found.items():
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-5)
    identity = adapter_identity(AdapterConfig(uri="models:/adapted@best"))
    assert identity.pins == ["model.adapter.uri=models:/adapted/1"]


def test_a_logged_model_without_an_adapter_is_no_adapter(tiny, store, tmp_path):
    (tmp_path / "scratch").mkdir()
    with mlflow.start_run():
        model_id = log_pipeline_model(tiny, "tiny", tmp_path / "scratch", {"source": "test"})
    with pytest.raises(
        SlmflowError, match="is a model without an adapter of its own; as a model it is model="
    ):
        take(AdapterConfig(uri=f"models:/{model_id}"), tmp_path / "taken")


@pytest.mark.parametrize("uri", ["runs:/0123456789abcdef/x", "models:/missing/1", "s3://bucket/x"])
def test_an_adapter_that_is_not_there_is_named(store, tmp_path, uri):
    with pytest.raises(SlmflowError, match=f"model.adapter.uri={uri}"):
        take(AdapterConfig(uri=uri), tmp_path / "taken")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("model.adapter.repo=a/b model.adapter.path=/c", "model.adapter: give one of repo, path and uri"),
        (
            "model.adapter.uri=runs:/a/b model.adapter.path=/c",
            "model.adapter: give one of repo, path and uri",
        ),
        ("model.adapter.path=here", r"model\.adapter\.path=here: must be an absolute path"),
        ("model.adapter.path=/c export=prebuilt", "merged into weights: export=prebuilt has none"),
        ("model.adapter.rep=a/b", r"did you mean model\.adapter\.repo\?"),
    ],
)
def test_bad_words_for_an_adapter_are_refused(overrides, said):
    with pytest.raises(SlmflowError, match=said):
        compose(overrides=overrides)


LAYERS = ["q_proj", "k_proj", "v_proj", "down_proj"]
TRAINED = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "ranks and alphas by pattern": {
        "rank_pattern": {"layers.0.self_attn.q_proj": 7, "down_proj": 2},
        "alpha_pattern": {"v_proj": 3},
    },
    "biases": {"bias": "all"},
    "biases of the adapted": {"bias": "lora_only"},
    "head and embedding saved": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "embedding by factors": {"target_modules": [*LAYERS, "embed_tokens"]},
    "DoRA of the embedding": {"use_dora": True, "target_modules": [*LAYERS, "embed_tokens"]},
    "all at once": {
        "use_dora": True,
        "use_rslora": True,
        "bias": "all",
        "modules_to_save": ["lm_head"],
        "rank_pattern": {"q_proj": 3},
    },
}


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_what_peft_trained_computes_as_pefts_own_forward(tmp_path, kind, name):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    source = strong_model(tmp_path / "base", kind)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": LAYERS, **TRAINED[name]}
    torch.manual_seed(1)
    trained = get_peft_model(
        AutoModelForCausalLM.from_pretrained(source), LoraConfig(task_type="CAUSAL_LM", **settings)
    )
    with torch.no_grad():
        for part, value in trained.named_parameters():
            if value.requires_grad:
                spread = 0.3 if "lora_" in part and "magnitude" not in part else 0.1
                value.add_(spread * torch.randn_like(value))
    trained.save_pretrained(tmp_path / "adapter")
    merge(source, tmp_path / "adapter", tmp_path / "merged")
    ids = list(range(5, 69))
    with torch.inference_mode():
        expected = trained.eval()(torch.tensor([ids])).logits[0].numpy()
    plain, merged = (next(reference_logits(folder, [ids])) for folder in (source, tmp_path / "merged"))
    assert kl(expected, merged) < 1e-6
    assert kl(expected, plain) > 1e-3, "the adapter changes the answer"


def kl(one, other):
    return float(kl_divergence(log_softmax(one), log_softmax(other)).mean())


def test_an_adapter_of_a_model_that_sees_fits_its_text_part(tmp_path):
    published = make_family("Gemma 3", tmp_path / "published")
    make_huggingface(published, tmp_path / "text")
    name = "model.language_model.layers.1.mlp.down_proj"
    rows, columns = load_file(tmp_path / "text" / "model.safetensors")[
        "model.layers.1.mlp.down_proj.weight"
    ].shape
    (tmp_path / "adapter").mkdir()
    tensors = {
        f"base_model.model.{name}.lora_A.weight": torch.ones(1, columns),
        f"base_model.model.{name}.lora_B.weight": torch.ones(rows, 1),
    }
    save_file(tensors, tmp_path / "adapter" / WEIGHTS)
    (tmp_path / "adapter" / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1}))
    assert merge(tmp_path / "text", tmp_path / "adapter", tmp_path / "merged") == 1


@pytest.mark.parametrize("name", ["lm_head", "model.embed_tokens"])
def test_a_weight_that_stands_for_two_is_not_changed(make_model, adapter, tmp_path, name):
    """PEFT itself would leave the other as it was, and so make two of one."""

    def copied(tensors):
        tensors[f"base_model.model.{name}.weight"] = torch.zeros(1024, 64)

    tied = make_model("model.source.architecture=llama model.source.tied=true")
    folder = adapter(copied, modules_to_save=["lm_head", "embed_tokens"])
    with pytest.raises(SlmflowError, match=rf"changes {name}\.weight, which this model shares with its"):
        merge(tied, folder, tmp_path / "merged")
