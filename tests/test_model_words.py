"""`model=` and `adapter=` take what one has, and say in one line what they cannot make of a word."""

import pytest

from slmflow.errors import SlmflowError
from slmflow.model_words import adapter_tokens, anchored, model_tokens, split_choices
from slmflow.sweep import variants
from slmflow.words import CHOICES, read_words


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to type in, with a model folder, a GGUF file and an adapter."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    for name in ("mine", "tiny_phi3", "org/name", "with, comma"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    (tmp_path / "docs" / "x").mkdir(parents=True)
    (tmp_path / "My.Q4_K_M.gguf").write_bytes(b"GGUF")
    return tmp_path


def composed(*words):
    (variant,) = variants(**read_words("register", list(words), CHOICES).choices)
    return variant.composition


def test_a_name_of_conf_is_itself():
    assert model_tokens("tiny_phi3") == ["model=tiny_phi3"]


def test_a_folder_is_found_where_the_command_was_typed(here):
    for word in ("mine", "./mine", str(here / "mine"), "docs/../mine"):
        found = composed(f"model={word}")
        assert found.choices["model"] == "local"
        assert found.config.model.source.path == str(here / "mine")
        assert found.config.model.name == "mine"


def test_a_gguf_file_is_found_and_keeps_its_codes(here):
    found = composed("model=My.Q4_K_M.gguf")
    assert found.config.model.source.path == str(here / "My.Q4_K_M.gguf")
    assert found.choices["export"] == "gguf_cpu"
    assert found.config.model.name == "my.q4_k_m"


def test_an_existing_path_is_never_split(here):
    assert composed("model=with, comma").config.model.source.path == str(here / "with, comma")
    assert split_choices(str(here / "with, comma")) == [str(here / "with, comma")]
    assert anchored("model", "mine,tiny_phi4", here) == f"{here}/mine,tiny_phi4"


@pytest.mark.parametrize(
    ("word", "source"),
    [
        ("org/other", {"repo": "org/other", "revision": "main", "file": ""}),
        ("org/other@v1.0", {"repo": "org/other", "revision": "v1.0", "file": ""}),
        ("org/other:Q4_K_M", {"repo": "org/other", "revision": "main", "file": "*Q4_K_M.gguf"}),
        ("org/other@refs/pr/1:a/b.gguf", {"repo": "org/other", "revision": "refs/pr/1", "file": "a/b.gguf"}),
        ("org/name@main", {"repo": "org/name", "revision": "main", "file": ""}),
    ],
)
def test_a_repository_with_its_revision_and_its_gguf_file(here, word, source):
    found = composed(f"model={word}")
    assert found.choices["model"] == "hub"
    assert {key: getattr(found.config.model.source, key) for key in source} == source
    assert found.choices["export"] == ("gguf_cpu" if source["file"] else "int8_cpu")


@pytest.mark.parametrize(
    "word", ["models:/name@champion", "models:/name/3", "models:/m-0123", "runs:/abc/model"]
)
def test_something_in_mlflow(here, word):
    found = composed(f"model={word}", f"adapter={word}")
    assert found.choices["model"] == "mlflow"
    assert found.config.model.source.uri == word
    assert found.config.model.adapter.uri == word


def test_an_adapter_is_a_folder_or_a_repository(here):
    assert composed("adapter=lora").config.model.adapter.path == str(here / "lora")
    assert composed("adapter=lora").choices["export"] == "int8_cpu"
    adapter = composed("adapter=org/lora@v2").config.model.adapter
    assert (adapter.repo, adapter.revision) == ("org/lora", "v2")


def test_a_folder_without_weights_is_not_what_a_repository_is_mistaken_for(here):
    assert composed("model=docs/x").config.model.source.repo == "docs/x"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=tiny_phi3"], "is a folder here, .*/tiny_phi3, and a name of conf/model/: write ./tiny_phi3"),
        (
            ["model=org/name"],
            r"may be a repository on the hub: write \./org/name for the folder, org/name@main",
        ),
        (["model=./nothing"], r"model=\./nothing: there is no /"),
        (["model=no.gguf"], r"model=no\.gguf: there is no /"),
        (["model=/no/such"], r"model=/no/such: there is no such folder or \.gguf file"),
        (["model=tiny_ph"], r"model=tiny_ph is unknown: did you mean tiny_phi3\?"),
        (["model=what ever"], r"model=what ever is unknown: allowed are .*org/name:Q4_K_M"),
        (["model=org/a,"], "there is nothing beside a comma"),
        (["adapter=org/a:b"], "adapter=org/a:b is unknown: give a folder, "),
        (["adapter=what"], "adapter=what is unknown: give a folder, "),
        (["adapter=/no/such"], "adapter=/no/such: there is no such folder"),
        (["adapter=org/a", "model.adapter.path=/x"], "model.adapter: give one of repo, path and uri"),
    ],
)
def test_a_word_that_is_two_things_or_none_is_one_line(here, words, said):
    with pytest.raises(SlmflowError, match=said) as refused:
        composed(*words)
    assert "\n" not in str(refused.value)


def test_where_the_folder_is_lost_a_path_must_be_absolute(here):
    with pytest.raises(SlmflowError, match="give an absolute path"):
        anchored("model", "./mine", None)
    assert anchored("model", "org/name", None) == "org/name"
    assert anchored("model", str(here / "mine"), None) == str(here / "mine")


def test_adapter_words_are_quoted_for_hydra():
    assert adapter_tokens("runs:/a/b c") == ["model.adapter.uri='runs:/a/b c'"]
