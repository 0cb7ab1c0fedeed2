"""optimum's exporter runs in an environment of its own, whose older transformers reads only what it knows."""

import json
import subprocess

import pytest

from slmflow.compose import compose
from slmflow.environments import maker
from slmflow.environments.exporters import FOLDER, exporter_environment, refuse_without_environment
from slmflow.errors import SlmflowError
from slmflow.export import export_folder, optimum_onnx
from slmflow.export.older_reader import refuse_what_it_would_misread
from slmflow.export.proofs import prove
from slmflow.workflow.fingerprint import ingredients
from slmflow.workflow.steps import STEPS
from tests.environments import without_network
from tests.export.stock import strong_model

CONFIG = compose(export="optimum_fp32").config.export


def changed(tiny, folder, file="config.json", **fields):
    """A folder that says something else in one of its files."""
    folder.mkdir()
    for path in tiny.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    said = json.loads((folder / file).read_text()) | fields
    (folder / file).write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize("architecture", ["llama", "phi3", "qwen3", "gemma3"])
def test_a_folder_that_we_write_is_read_alike_by_both_libraries(make_model, make_onnx, architecture):
    """The graph is of transformers 4's reading, and it is held against transformers 5's forward."""
    overrides = f"model.source.architecture={architecture}"
    proofs = prove(make_onnx("optimum_fp32", overrides), make_model(overrides), CONFIG.precision)
    assert proofs["tokenizer"]["differences"] == 0
    assert proofs["template"] == {"chats": 3, "differences": 0}
    assert max(proofs["logits"].values()) < 1e-9


@pytest.mark.parametrize("architecture", ["llama", "phi3", "qwen3", "gemma3"])
def test_a_folder_that_we_write_says_what_the_model_was_made_of(make_model, architecture):
    from transformers import AutoConfig

    folder = make_model(f"model.source.architecture={architecture}")
    said = json.loads((folder / "config.json").read_text())
    assert "rope_parameters" not in said
    rotary = AutoConfig.from_pretrained(folder).rope_parameters
    made_of = AutoConfig.for_model(said["model_type"]).rope_parameters
    assert rotary == made_of


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"transformers_version": "5.17.0"}, "the format of transformers_version=5.17.0"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "rope_parameters is unknown"),
        ({"model_type": "qwen3_5_text"}, "model_type=qwen3_5_text is unknown"),
        ({"transformers_version": "main"}, "the format of transformers_version=main"),
        ({"text_config": {"model_type": "phi3"}}, "a model that does more than text"),
    ],
)
def test_what_the_older_library_would_misread_is_refused_before_its_environment_is_made(
    tiny, tmp_path, monkeypatch, fields, said
):
    monkeypatch.setenv(maker.FOLDER, str(tmp_path / "environments"))
    source = changed(tiny, tmp_path / "source", **fields)
    with pytest.raises(SlmflowError, match=rf"config.json: .*{said}.* choose export=traced_fp32 or fp32_cpu"):
        export_folder(CONFIG, source, tmp_path / "onnx", tmp_path)
    assert not (tmp_path / "environments").exists()


def test_a_tokenizer_class_that_it_does_not_know_is_refused(tiny, tmp_path):
    source = changed(tiny, tmp_path / "source", "tokenizer_config.json", tokenizer_class="TokenizersBackend")
    with pytest.raises(
        SlmflowError, match="tokenizer_class=TokenizersBackend is unknown to transformers 4.57.6"
    ):
        refuse_what_it_would_misread("optimum", source)


def test_a_key_that_only_todays_library_reads_is_refused_and_one_that_neither_reads_is_not(
    tiny, tmp_path, monkeypatch
):
    refuse_what_it_would_misread("optimum", changed(tiny, tmp_path / "harmless", is_llama_config=True))
    refuse_what_it_would_misread("optimum", changed(tiny, tmp_path / "by_v", transformers_version="v4.40"))
    from transformers import Phi3Config

    monkeypatch.setitem(Phi3Config.__annotations__, "new_scaling", float)
    with pytest.raises(SlmflowError, match=r"config.json: new_scaling=2.0 is unknown"):
        refuse_what_it_would_misread("optimum", changed(tiny, tmp_path / "newer", new_scaling=2.0))


def test_a_folder_saved_by_todays_transformers_is_refused(tmp_path):
    source = strong_model(tmp_path / "source", "llama")
    with pytest.raises(SlmflowError, match=r"the format of transformers_version=5"):
        refuse_what_it_would_misread("optimum", source)


def test_what_it_knows_is_what_its_environment_says():
    done = subprocess.run(
        [exporter_environment("optimum").python, "-I", FOLDER / "optimum" / "known.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == json.loads((FOLDER / "optimum" / "known.json").read_text())


def test_beside_the_main_environment_it_is_small_and_fetches_no_torch():
    made = exporter_environment("optimum")
    assert not [line for line in made.installed if line.startswith(("torch", "onnx", "numpy"))]
    own = sum(
        path.stat().st_size for path in made.folder.rglob("*") if path.is_file() and path.stat().st_nlink == 1
    )
    assert own < 150e6


def test_without_a_network_and_without_the_environment_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv(maker.FOLDER, str(tmp_path / "environments"))
    without_network(monkeypatch)
    with pytest.raises(
        SlmflowError,
        match=r"the environment of exporter optimum cannot be made: .*; connect to an index once, or choose",
    ) as error:
        refuse_without_environment("optimum")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "environments").iterdir()) == []


def test_an_environment_that_is_there_needs_no_network(monkeypatch):
    exporter_environment("optimum")
    without_network(monkeypatch)
    refuse_without_environment("optimum")


def test_an_exporter_that_fails_is_one_line_with_its_log_above(tiny, tmp_path, capsys):
    broken = changed(tiny, tmp_path / "source", hidden_size=63)
    with pytest.raises(SlmflowError, match="exporter optimum failed: ") as error:
        optimum_onnx.export(CONFIG, broken, None, tmp_path / "onnx", tmp_path)
    assert "\n" not in str(error.value)
    assert "Traceback" in capsys.readouterr().err


def test_its_lock_and_its_program_are_in_the_key():
    installed = ingredients(STEPS["export_onnx"], compose(model="tiny_phi3", export="optimum_fp32"), {}, {})[
        "installed"
    ]
    assert len(installed["environments/optimum"]) == 64
    others = ingredients(STEPS["export_onnx"], compose(model="tiny_phi3", export="int4_cpu"), {}, {})[
        "installed"
    ]
    assert "environments/optimum" not in others
