"""What benchmarks write of each machine, and the words that run them."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks
from benchmarks import Row, _results, publish, row
from benchmarks.__main__ import NAMES, SHORT
from benchmarks._machine import instructions, of_this_machine
from slmflow.errors import SlmflowError
from tests.conftest import ROOT

OTHER = {"cpu": "Another", "cores": "64", "threads": "128", "system": "Linux x86_64", "instructions": "avx2"}


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(_results, "RESULTS", tmp_path)
    return tmp_path


def kept(results):
    return {(one["name"], (one["machine"] or {}).get("cpu")): one for one in _results.recorded("speed")}


def test_a_row_says_what_was_measured_beside_what_and_on_which_machine(results):
    publish("speed", [row("decode", 3.0, "tok/s", 2.0, at_least=1.2), row("load", 1.0, "s")], whole=True)
    one, other = json.loads((results / "speed.json").read_text())
    machine = of_this_machine()
    assert one == {
        "name": "decode",
        "value": 3.0,
        "unit": "tok/s",
        "peer": 2.0,
        "ratio": 1.5,
        "goal": ">= 1.2",
        "holds": True,
        "machine": machine,
    }
    assert (other["goal"], other["holds"]) == (None, True)
    assert machine["cpu"]
    assert int(machine["cores"]) >= 1


def test_rows_of_another_machine_stay_as_they_are_and_a_name_that_is_no_longer_measured_goes_here_only(
    results,
):
    publish("speed", [Row("a", 1, "s"), Row("gone", 1, "s")], whole=True)
    theirs = [{**one, "value": 9, "machine": OTHER} for one in _results.recorded("speed")]
    (results / "speed.json").write_text(json.dumps([*theirs, *_results.recorded("speed")]))
    publish("speed", [Row("a", 2, "s"), Row("new", 2, "s")], whole=True)
    here = of_this_machine()["cpu"]
    found = kept(results)
    assert [one for one in found.values() if one["machine"] == OTHER] == theirs
    assert {name: one["value"] for (name, cpu), one in found.items() if cpu == here} == {"a": 2, "new": 2}


@pytest.mark.parametrize("field", sorted(OTHER))
def test_a_machine_is_another_where_anything_of_it_differs(field):
    old, new = {"name": "a", "value": 1, "machine": OTHER}, {"name": "a", "value": 2}
    machine = {**OTHER, field: "different"}
    rows = _results.merged([old], [{**new, "machine": machine}], machine, whole=True)
    assert rows == [old, {**new, "machine": machine}]


def test_a_run_of_a_part_leaves_the_other_rows_of_this_machine(results):
    publish("speed", [Row("a", 1, "s"), Row("b", 1, "s")], whole=True)
    publish("speed", [Row("b", 2, "s")], whole=False)
    assert {name: one["value"] for (name, _), one in kept(results).items()} == {"a": 1, "b": 2}


def test_a_row_of_an_unrecorded_machine_is_marked_and_stays_until_a_known_one_has_measured_the_same(results):
    old = [{"name": "a", "value": 1, "holds": True}, {"name": "b", "value": 1, "holds": True}]
    (results / "speed.json").write_text(json.dumps(old))
    publish("speed", [Row("b", 2, "s")], whole=True)
    found = kept(results)
    assert found["a", None] == {**old[0], "machine": None}
    assert [name for name, _ in found] == ["a", "b"]


def test_the_same_machine_is_the_same_again():
    program = "from benchmarks._machine import of_this_machine; print(of_this_machine())"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ast.literal_eval(done.stdout) == of_this_machine()


@pytest.mark.parametrize(
    ("cpuinfo", "found"),
    [
        (
            "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_int8 amx_tile\nbugs\t: amx_bf16\n",
            ["avx2", "avx512f", "avx512_vnni", "amx_tile", "amx_int8"],
        ),
        ("Features\t: fp asimd asimddp i8mm bf16\n", ["asimd", "asimddp", "i8mm", "bf16"]),
        ("model name\t: avx2\n", []),
        ("", []),
    ],
)
def test_instruction_sets_are_those_that_the_processor_names(cpuinfo, found):
    assert instructions(cpuinfo) == found


def test_a_write_that_fails_leaves_the_file_as_it_was(results, monkeypatch):
    publish("speed", [Row("a", 1, "s")], whole=True)
    before = (results / "speed.json").read_text()

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        publish("speed", [Row("a", 2, "s")], whole=True)
    assert (results / "speed.json").read_text() == before


WRONG = [
    "not JSON",
    '[{"name": "a"}',
    "{}",
    "[1]",
    '[{"value": 1}]',
    '<<<<<<< HEAD\n[{"name": "a"}]',
    b"\xff\xfe",
]


@pytest.mark.parametrize("text", WRONG)
def test_a_file_that_is_no_list_of_rows_is_refused_in_one_line_before_anything_is_measured(
    results, monkeypatch, capsys, text
):
    path = results / "speed.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    monkeypatch.setattr(sys, "argv", ["speed"])
    measured = []
    with pytest.raises(SystemExit) as end:
        benchmarks.run("speed", lambda words: measured.append(words) or [])
    assert (end.value.code, measured) == (1, [])
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line
    assert "no list of rows" in line
    with pytest.raises(SlmflowError, match="no list of rows"):
        publish("speed", [Row("a", 1, "s")], whole=True)
    assert path.read_bytes() == (text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize("word", ["sices=135M", "large", "sizes=", "=1"])
def test_a_word_that_a_benchmark_does_not_take_is_refused_before_anything_is_measured(
    results, monkeypatch, capsys, word
):
    monkeypatch.setattr(sys, "argv", ["speed", word])
    with pytest.raises(SystemExit) as end:
        benchmarks.run("speed", lambda words: pytest.fail("it measured"), ["sizes", "peer"])
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{word} is not known: it takes sizes=… and peer=…" in line


def test_a_benchmark_with_words_measures_a_part_and_without_any_the_whole(results, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["speed"])
    for words, names in ([], "ab"), (["only=b"], "b"), ([], "a"):
        monkeypatch.setattr(sys, "argv", ["speed", *words])
        with pytest.raises(SystemExit, match="0"):
            benchmarks.run("speed", lambda _, names=names: [Row(name, 1, "s") for name in names], ["only"])
        assert {name for name, _ in kept(results)} == ({"a"} if names == "a" else {"a", "b"})


def test_an_unknown_benchmark_is_one_line_with_those_that_there_are():
    command = [sys.executable, "-m", "benchmarks", "gguff"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "no benchmark gguff" in line
    assert all(name in line for name in NAMES)


def test_make_help_lists_every_benchmark():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    (listed,) = re.findall(r"make bench-<(.*)>", done.stdout)
    assert listed.split("|") == NAMES
    assert set(SHORT) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_opens_with_its_commands_and_how_long_they_take(name):
    docstring = ast.get_docstring(ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text()))
    commands = [line for line in docstring.splitlines() if line.startswith("    ")]
    assert commands[0].split()[:3] == ["python", "-m", f"benchmarks.{name}"]
    assert re.search(r"minutes|hour", commands[0])
    if words := SHORT.get(name):
        (short,) = [line for line in commands if line.split("#")[0].split()[3:] == words]
        assert "minutes" in short or "hour" in short


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda p: p.stem
)
def test_a_recorded_row_is_of_a_benchmark_that_exists_names_its_machine_and_misses_only_a_goal(path):
    assert path.stem in NAMES
    seen = set()
    for one in _results.recorded(path.stem):
        assert "machine" in one
        assert one["holds"] is True or one["goal"]
        key = (one["name"], json.dumps(one["machine"]))
        assert key not in seen
        seen.add(key)
        assert "node-llama-cpp" not in one["name"] or one["goal"] is None, "its speed is not llama.cpp's"
