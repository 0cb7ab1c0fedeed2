"""Every exporter leaves a folder that loads, generates and is the same model; proofs refuse a wrong one."""

import json
import shutil

import onnx
import pytest

from slmflow.compose import compose
from slmflow.config import Precision
from slmflow.errors import SlmflowError
from slmflow.export import export_folder
from slmflow.export.genai import builder_options, described
from slmflow.export.proofs import prove
from slmflow.files import digests_under

ARCHITECTURES = ["llama", "phi3", "qwen3", "gemma3"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("export", "limit"), [("fp32_cpu", 1e-9), ("int8_cpu", 1e-3)])
def test_an_exported_model_is_proven_the_same(make_model, make_onnx, architecture, export, limit):
    overrides = f"model.source.architecture={architecture}"
    precision = compose(export=export).config.export.precision
    proofs = prove(make_onnx(export, overrides), make_model(overrides), precision)
    assert proofs["tokenizer"]["differences"] == 0
    assert proofs["template"] == {"chats": 3, "differences": 0}
    assert max(proofs["logits"].values()) < limit


@pytest.mark.parametrize("export", ["int4_cpu", "int8_cpu"])
@pytest.mark.parametrize("tied", ["true", "false"])
def test_a_quantised_model_loads_whether_its_head_is_tied_or_not(make_model, make_onnx, export, tied):
    overrides = f"model.source.architecture=llama model.source.tied={tied}"
    precision = compose(export=export).config.export.precision
    assert prove(make_onnx(export, overrides), make_model(overrides), precision)["generates"]


def test_a_second_export_gives_the_same_bytes(make_model, make_onnx, tmp_path):
    config = compose(model="tiny_phi3", export="int8_cpu").config.export
    export_folder(config, make_model(), tmp_path / "onnx", tmp_path / "scratch")
    assert digests_under(tmp_path / "onnx") == digests_under(make_onnx("int8_cpu"))


def test_the_variants_weights_have_the_precision_that_they_name(make_onnx):
    for export, bits in (("int8_cpu", 8), ("int4_cpu", 4)):
        graph = onnx.load(make_onnx(export) / "model.onnx", load_external_data=False).graph
        found = {
            a.i for n in graph.node if n.op_type == "MatMulNBits" for a in n.attribute if a.name == "bits"
        }
        assert found == {bits}


def test_the_builder_is_given_todays_option_names(tiny):
    options = builder_options(compose(export="int4_mixed_cpu").config.export, described(tiny))
    assert options == {
        "shared_embeddings": "false",
        "windowed_kv_cache": "false",
        "algo_config": "k_quant",
        "block_size": "32",
        "is_symmetric": "true",
        "accuracy_level": "4",
        "matmul_mixed_precision": "last_matmul:int8,mixed_layers:int8",
    }


def test_a_prebuilt_folder_is_taken_as_it_is_and_anything_else_refused(tiny, tiny_onnx, tmp_path):
    config = compose(export="prebuilt").config.export
    export_folder(config, tiny_onnx, tmp_path / "onnx", tmp_path)
    assert digests_under(tmp_path / "onnx") == digests_under(tiny_onnx)
    with pytest.raises(SlmflowError, match="no finished genai folder"):
        export_folder(config, tiny, tmp_path / "other", tmp_path)


def test_a_prebuilt_folder_that_names_a_library_is_refused(broken, tmp_path):
    path = broken / "genai_config.json"
    config = json.loads(path.read_text())
    config["model"]["decoder"]["session_options"]["custom_ops_library"] = "ops.so"
    path.write_text(json.dumps(config))
    with pytest.raises(SlmflowError, match="custom_ops_library"):
        export_folder(compose(export="prebuilt").config.export, broken, tmp_path / "onnx", tmp_path)


def test_a_prebuilt_folder_without_its_base_is_proven_to_generate_and_nothing_more(tiny_onnx):
    proofs = prove(tiny_onnx, None, Precision.source)
    assert proofs.pop("graph")["operators"]["com.microsoft.GroupQueryAttention"] == 2
    assert proofs.pop("batch_kl") < 1e-9
    assert proofs == {"generates": True, "engines": ["generate", "continuous"], "reference": False}


def test_an_engine_that_mixes_up_its_rows_is_not_proven(tiny_onnx, monkeypatch, capsys):
    from slmflow.models.slm_runtime.continuous import ContinuousEngine

    right = ContinuousEngine.decode
    monkeypatch.setattr(ContinuousEngine, "decode", lambda self, caches, ids: right(self, caches, ids)[::-1])
    assert prove(tiny_onnx, None, Precision.source)["engines"] == ["generate"]
    assert "nats from its single rows" in capsys.readouterr().out


@pytest.fixture
def broken(tiny_onnx, tmp_path):
    """A copy of the exported folder to damage."""
    return shutil.copytree(tiny_onnx, tmp_path / "broken")


def damage_weights(folder):
    data = bytearray((folder / "model.onnx.data").read_bytes())
    middle = len(data) // 2 // 4 * 4
    data[middle : middle + 40_000] = data[1000:41_000]
    (folder / "model.onnx.data").write_bytes(bytes(data))


def cut_weights(folder):
    data = (folder / "model.onnx.data").read_bytes()
    (folder / "model.onnx.data").write_bytes(data[: len(data) // 2])


def remove_graph(folder):
    (folder / "model.onnx").unlink()


def cut_graph(folder):
    data = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(data[: len(data) // 2])


def edit_graph(folder, change):
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    change(model.graph)
    onnx.save(model, folder / "model.onnx")


def lose_a_node(folder):
    edit_graph(folder, lambda graph: graph.node.remove(next(n for n in graph.node if n.op_type == "MatMul")))


def break_an_attribute(folder):
    def change(graph):
        node = onnx.helper.make_node("Transpose", ["logits"], ["t"], name="/model/Transpose", perm=0.5)
        graph.node.append(node)

    edit_graph(folder, change)


def misfit_a_type(folder):
    def change(graph):
        ids = next(value for value in graph.input if value.name == "input_ids")
        ids.type.tensor_type.elem_type = onnx.TensorProto.FLOAT

    edit_graph(folder, change)


def swap_two_tokens(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["1"], vocabulary["2"] = vocabulary["2"], vocabulary["1"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def change_template(folder):
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|end|>\\n", "<|end|>"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_weights, "logits of the exported fp32 graph are wrong on the prefill path"),
        (cut_weights, "does not load or generate"),
        (remove_graph, r"model\.onnx does not load"),
        (cut_graph, r"model\.onnx does not load"),
        (lose_a_node, r"takes .*, which nothing makes"),
        (break_an_attribute, r"node /model/.*Transpose"),
        (misfit_a_type, "shapes do not fit"),
        (swap_two_tokens, "tokenizer ids differ from the source's"),
        (change_template, "the chat template renders"),
    ],
)
def test_a_wrong_folder_is_refused_with_what_is_wrong(tiny, broken, damage, said):
    damage(broken)
    with pytest.raises(SlmflowError, match=said) as error:
        prove(broken, tiny, Precision.fp32)
    assert "\n" not in str(error.value)


def test_an_exporter_that_leaves_no_tokenizer_is_caught(broken, tmp_path):
    (broken / "tokenizer.json").unlink()
    with pytest.raises(SlmflowError, match=r"left no tokenizer\.json"):
        export_folder(compose(export="prebuilt").config.export, broken, tmp_path / "onnx", tmp_path)
