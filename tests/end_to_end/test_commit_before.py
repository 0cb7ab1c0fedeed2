"""A store of the commit before goes on: its champion is followed, its runs are reproduced and compared."""

import json
import subprocess

import pytest

from slmflow.environments.maker import Purpose, environment
from slmflow.workflow import runs
from tests.conftest import ROOT, run_project, run_warm

pytestmark = pytest.mark.slow
COMMIT = "b778ae0"
"""The last one whose evaluations asked five windows and all items, and said nothing of how many; it read models
with transformers 4."""
WORDS = "evaluate=default gate.load_test=here"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Made by that commit's own code: a run of the tiny model with the default evaluation, and its champions."""
    folder, clone = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("before") / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    subprocess.run(["git", "checkout", "-q", COMMIT], cwd=clone, check=True)
    pins = (clone / "requirements.txt").read_text()
    its_own = environment(pins, Purpose("the commit before", ""), is_locked=True)
    words = ["-P", "model=tiny_phi3", "-P", f"overrides={WORDS}"]
    done = run_project(words, folder, clone, str(its_own.python))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def evaluation_of(client, version):
    run = client.get_run(version.tags["evaluate_run"])
    return runs.json_artifact(run, "evaluation.json")


def test_a_new_content_is_asked_what_the_champion_was_and_promoted_with_every_margin_checked(store, client):
    before = evaluation_of(client, client.get_model_version_by_alias("tiny-phi3-onnx", "champion"))
    assert "asked" not in before
    planned = run_warm(["-e", "plan", "-P", "model=tiny_phi3", "-P", f"overrides={WORDS}"], store)
    assert planned.returncode == 0, planned.stderr
    assert "the champion, was asked: 1,275 tokens, 250 items" in planned.stdout
    words = f"overrides={WORDS} package.max_tokens=7"
    done = run_warm(["-P", "model=tiny_phi3", "-P", words], store)
    assert done.returncode == 0, done.stdout + done.stderr
    champion = client.get_model_version_by_alias("tiny-phi3-onnx", "champion")
    assert int(champion.version) == 2
    after = evaluation_of(client, champion)
    assert (after["asked"]["windows"], after["asked"]["items"]) == (5, 250)
    assert after["fidelity"]["windows_digest"] == before["fidelity"]["windows_digest"]
    assert after["tasks"]["digest"] == before["tasks"]["digest"] == after["tasks"]["set"]
    checks = json.loads(champion.tags["gate.json"])["checks"]
    held = [check["name"] for check in checks if "champion v1" in check["against"]]
    assert held == [
        "kl_mean",
        "top1_agreement",
        "tasks.score",
        "decode_tokens_per_second",
        "peak_resident_bytes",
    ]
    assert champion.tags["metric.tokens"] == "1275"
    assert champion.tags["metric.tasks.items"] == "250"


def test_items_that_were_cut_are_refused_and_the_line_says_what_to_do(store, client, tmp_path):
    lines = (ROOT / "slmflow" / "data" / "tasks.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "some.jsonl").write_text("".join(lines[:60]))
    words = f"overrides={WORDS} package.max_tokens=8 evaluate.items={tmp_path}/some.jsonl"
    done = run_warm(["-P", "model=tiny_phi3", "-P", words], store)
    assert done.returncode != 0
    assert (
        "answered other items: the gate cannot compare; evaluate it again with these settings" in done.stdout
    )
    assert (
        "tasks.score cannot be compared: champion v2 answered other items: evaluate champion v2"
        in done.stderr
    )
    assert int(client.get_model_version_by_alias("tiny-phi3-onnx", "champion").version) == 2


def test_evaluations_of_both_commits_are_compared_side_by_side(store, client):
    ids = [client.get_model_version("tiny-phi3-onnx", number).tags["evaluate_run"] for number in ("1", "2")]
    done = run_warm(["-e", "compare", "-P", f"run_ids={','.join(ids)}"], store)
    assert done.returncode == 0, done.stderr
    assert "| 1275 |" in done.stdout or "1,275" in done.stdout
    assert "Speeds are of the fastest answer, but medians of these:" in done.stdout


def test_a_run_of_the_commit_before_is_reproduced(store, client):
    found = client.search_runs(["0"], "tags.slmflow.kind = 'driver'", order_by=["attributes.start_time ASC"])
    done = run_warm(["-e", "reproduce", "-P", f"run_id={found[0].info.run_id}"], store)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all content is equal" in done.stdout
