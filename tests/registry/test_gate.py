"""The gate judges by figures, of themselves and against the champion."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmflow.compose import compose
from slmflow.errors import SlmflowError
from slmflow.registry.admission import refuse_early, refuse_licence
from slmflow.registry.gate import judge, threshold_for
from slmflow.registry.paired import paired_error
from slmflow.registry.relative import Champion

MACHINE = {"cpu": "one", "cores": "2", "threads": "2", "system": "Linux x86_64"}


def evaluation(
    kl=0.001, top1=0.99, parameters=135_000_000, precision="int8", speed=50.0, *, measured=True, **more
):
    return {
        "candidate": "onnx",
        "fingerprint": "ours",
        "source_digest": "one",
        "parameters": parameters,
        "precision": precision,
        "fidelity": {"kl_mean": kl, "top1_agreement": top1} if measured else None,
        "cost": {"decode_tokens_per_second": speed, "peak_resident_bytes": 1e9},
        "tasks": {"digest": "own", "score": 0.5, "score_se": 0.02},
        "machine": MACHINE,
        **more,
    }


def champion(**figures):
    return Champion("3", evaluation(**{"fingerprint": "theirs", **figures}))


def gate(overrides=""):
    return compose(overrides=overrides).config.gate


def misses(verdict):
    return [check.name for check in verdict.misses]


@pytest.mark.parametrize(
    ("parameters", "precision", "max_kl", "min_top1"),
    [
        (135_000_000, "int8", 0.02, 0.94),
        (135_000_000, "int4", 0.02, 0.94),
        (3_800_000_000, "int8", 0.01, 0.97),
        (3_800_000_000, "int4", 0.08, 0.90),
        (3_800_000_000, "source", 0.08, 0.90),
        (3_800_000_000, "bfloat16", 0.01, 0.97),
        (None, "int8", 0.01, 0.97),
        (1_000_000_000, "int8", 0.01, 0.97),
        (999_999_999, "int8", 0.02, 0.94),
    ],
)
def test_the_first_row_that_fits_size_and_precision_judges(parameters, precision, max_kl, min_top1):
    row = threshold_for(gate(), parameters, precision)
    assert (row.max_kl, row.min_top1) == (max_kl, min_top1)


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
    assert misses(verdict) == missed
    assert verdict.passed == (not missed)


def test_what_was_not_measured_says_so():
    checks = judge(evaluation(measured=False), gate()).checks
    assert str(checks[0]) == "kl_mean not measured (must be <= 0.02)"
    assert judge(evaluation(measured=False), gate()).word == "pass, fidelity not measured"
    assert judge(evaluation(), gate()).word == "pass"


def test_a_limit_that_the_user_sets_on_tasks_or_memory_is_missed_by_what_was_not_measured():
    asked = gate("gate.min_task_score=0.3 gate.max_peak_resident_bytes=2e9")
    unmeasured = evaluation(cost={"decode_tokens_per_second": 50.0}, tasks=None)
    assert misses(judge(unmeasured, asked)) == ["tasks.score", "peak_resident_bytes"]
    assert judge(evaluation(tasks={"score": 0.4}), asked).passed
    assert misses(judge(evaluation(tasks={"score": 0.2}), asked)) == ["tasks.score"]


def test_an_older_evaluation_with_fewer_names_is_judged_by_what_it_has():
    old = evaluation()
    for name in ("tasks", "machine"):
        del old[name]
    verdict = judge(old, gate(), champion(tasks=None))
    assert verdict.passed
    assert any("another machine" in note for note in verdict.notes)
    assert "tasks are not compared with champion v3: it was not asked any" in verdict.notes


def test_a_planted_bad_variant_is_refused_though_its_perplexity_is_close():
    """Figures as of a layer's scales doubled: the perplexity moves by half a percent, the rest is ruined."""
    good = {"kl_mean": 0.004, "top1_agreement": 0.97, "perplexity": 20.1, "perplexity_reference": 20.0}
    bad = {"kl_mean": 0.35, "top1_agreement": 0.71, "perplexity": 20.1, "perplexity_reference": 20.0}
    assert judge(evaluation(fidelity=good), gate()).passed
    assert misses(judge(evaluation(fidelity=bad), gate())) == ["kl_mean", "top1_agreement"]


def test_the_difference_to_the_champion_and_its_error_must_fit_into_the_margin():
    """0.001 + margin 0.01 − 1.645 errors of sqrt(0.0003² + 0.0004²) = 0.0101775."""

    def of(kl, error):
        return {"kl_mean": kl, "kl_mean_se": error, "top1_agreement": 0.99}

    best = champion(fidelity=of(0.001, 0.0003))
    assert judge(evaluation(fidelity=of(0.010177, 0.0004)), gate(), best).passed
    verdict = judge(evaluation(fidelity=of(0.010178, 0.0004)), gate(), best)
    assert misses(verdict) == ["kl_mean"]
    assert "0.001 of champion v3 + 0.01 − 1.645 errors of 0.0005" in str(verdict.misses[0])


def test_a_larger_error_never_makes_a_candidate_pass():
    def of(error):
        return evaluation(fidelity={"kl_mean": 0.011, "kl_mean_se": error, "top1_agreement": 0.99})

    best = champion(fidelity={"kl_mean": 0.002, "kl_mean_se": 0.0, "top1_agreement": 0.99})
    assert judge(of(0.0), gate(), best).passed
    assert misses(judge(of(0.01), gate(), best)) == ["kl_mean"]


def test_the_same_figures_on_both_sides_pass_whatever_their_errors():
    same = {"kl_mean": 0.001, "kl_mean_se": 0.05, "top1_agreement": 0.95, "top1_agreement_se": 0.1}
    assert judge(evaluation(fidelity=same), gate(), champion(fidelity=same)).passed
    tasks = {"digest": "d", "score": 0.5, "score_se": 0.2}
    assert judge(evaluation(tasks=tasks), gate(), champion(tasks=tasks)).passed


def answers(*correct, kind="closed"):
    return {
        "columns": ["id", "kind", "correct"],
        "data": [[str(at), kind, c] for at, c in enumerate(correct)],
    }


def test_tasks_of_the_same_items_are_held_against_each_other_item_by_item():
    """An equal candidate of 250 items passes by the paired error, and would not by the independent one."""
    scored = evaluation(tasks={"digest": "d", "score": 0.5, "score_se": 0.032})
    best = champion(tasks={**scored["tasks"], "score_se": 0.031}, fidelity=scored["fidelity"])
    assert misses(judge(scored, gate(), best)) == ["tasks.score"]
    mine = [at % 2 == 0 for at in range(250)]
    theirs = [not right if at < 20 else right for at, right in enumerate(mine)]
    paired = Champion("3", best.evaluation, answers(*theirs))
    assert judge(scored, gate(), paired, answers(*mine)).passed
    assert judge(scored, gate(), Champion("3", best.evaluation, answers(*mine)), answers(*mine)).passed
    others = Champion("3", best.evaluation, answers(*theirs[:-1]))
    assert misses(judge(scored, gate(), others, answers(*mine))) == ["tasks.score"]


def test_the_paired_error_is_that_of_the_mean_of_the_kinds_means():
    """Differences 1, 0, 0, 0 and 1, -1: variances 1/4 and 2 over 4 and 2 items, over two kinds."""
    mine, theirs = answers(1, 0, 0, 0), answers(0, 0, 0, 0)
    for table, right in ((mine, (1, 0)), (theirs, (0, 1))):
        table["data"] += [[f"j{at}", "json", correct] for at, correct in enumerate(right)]
    assert paired_error(mine, theirs) == pytest.approx(math.sqrt(0.25 / 4 + 2 / 2) / 2)
    assert paired_error(mine, mine) == 0
    assert paired_error(mine, None) is None
    assert paired_error({"columns": ["id"], "data": [["x"]]}, mine) is None


def test_a_figure_of_the_champion_that_is_no_number_refuses_no_successor():
    broken = champion(kl=math.nan, tasks={"digest": "own", "score": math.nan})
    broken.evaluation["cost"]["peak_resident_bytes"] = math.inf
    verdict = judge(evaluation(), gate(), broken)
    assert verdict.passed
    assert "kl_mean is not compared with champion v3: it is nan there" in verdict.notes
    assert "score is not compared with champion v3: it is nan there" in verdict.notes
    assert "peak_resident_bytes is not compared with champion v3: it is inf there" in verdict.notes


def test_fidelity_is_compared_on_the_same_tokens_only():
    def of(kl, **words):
        fidelity = {"kl_mean": kl, "top1_agreement": 1.0, "tokens": 1280.0, "perplexity_reference": 17.5}
        return {"fidelity": {**fidelity, **words}}

    def missed(ours, theirs):
        return misses(judge(evaluation(**ours), gate(), champion(**theirs)))

    assert missed(of(0.019, windows_digest="a"), of(0.0, windows_digest="a")) == ["kl_mean"]
    both = ["kl_mean", "top1_agreement"]
    assert missed(of(0.0, windows_digest="a"), of(0.0, windows_digest="b")) == both, "on another text"
    last_digit = of(0.0, perplexity_reference=17.500000000000004)
    assert missed(of(0.019), last_digit) == ["kl_mean"], "an old evaluation without a digest"
    assert missed(of(0.019, windows_digest="a"), last_digit) == ["kl_mean"]
    assert missed(of(0.0), of(0.0, perplexity_reference=17.51)) == both
    (miss, _) = judge(evaluation(**of(0.0)), gate(), champion(**of(0.0, tokens=96.0))).misses
    assert str(miss).startswith("kl_mean cannot be compared: champion v3 was measured on another text: ")


def test_enforced_something_must_have_been_measured():
    nothing = evaluation(measured=False, tasks=None)
    assert misses(judge(nothing, gate())) == ["fidelity and tasks"]
    assert "nothing was measured" in str(judge(nothing, gate()).misses[0])
    assert judge(nothing, gate("gate=warn")).passed
    assert judge(evaluation(measured=False), gate()).passed


def test_a_verdict_is_json_even_of_what_is_no_number():
    verdict = judge(evaluation(kl=math.nan), gate()).as_dict()
    assert json.loads(json.dumps(verdict, allow_nan=False))["checks"][0]["value"] == "nan"


def test_fidelity_is_compared_with_a_champion_of_the_same_source_only():
    poor = evaluation(kl=0.019, top1=0.95)
    assert misses(judge(poor, gate(), champion(kl=0.0001, top1=1.0))) == ["kl_mean", "top1_agreement"]
    verdict = judge(poor, gate(), champion(kl=0.0001, top1=1.0, source_digest="another"))
    assert verdict.passed
    assert verdict.notes[0] == "fidelity is not compared with champion v3: it is of another source"


def test_tasks_are_compared_across_sources_where_the_items_are_the_same():
    def tasks(score, digest="d"):
        return {"digest": digest, "score": score, "score_se": 0.02}

    # 0.6 − margin 0.05 + 1.645 errors of sqrt(2) 0.02 = 0.59653
    best = champion(tasks=tasks(0.6), source_digest="another")
    assert misses(judge(evaluation(tasks=tasks(0.5965)), gate(), best)) == ["tasks.score"]
    assert judge(evaluation(tasks=tasks(0.5966)), gate(), best).passed
    (other,) = judge(evaluation(tasks=tasks(0.9, "e")), gate(), best).misses
    assert str(other).startswith(
        "tasks.score cannot be compared: champion v3 answered other items: evaluate "
    )
    assert judge(evaluation(tasks=tasks(0.1, "e")), gate("gate.max_task_score_decrease=1"), best).passed


def test_speed_and_memory_are_compared_on_the_same_machine_only():
    slow = evaluation(cost={"decode_tokens_per_second": 10.0, "peak_resident_bytes": 5e9})
    assert misses(judge(slow, gate(), champion())) == ["decode_tokens_per_second", "peak_resident_bytes"]
    assert judge(slow, gate(), champion(machine={**MACHINE, "cpu": "another"})).passed


def test_the_champion_itself_is_compared_with_nothing():
    itself = Champion("3", evaluation())
    assert judge(evaluation(), gate(), itself).checks == judge(evaluation(), gate()).checks


figures = st.floats(0, 1)


@given(kl=figures, top1=figures, theirs=figures, error=figures)
def test_a_better_candidate_never_misses_what_a_worse_one_passes(kl, top1, theirs, error):
    def verdict(kl, top1):
        fidelity = {"kl_mean": kl, "kl_mean_se": error, "top1_agreement": top1}
        return judge(evaluation(fidelity=fidelity), gate_of_all, champion(kl=theirs, top1=theirs))

    if verdict(kl, top1).passed:
        assert verdict(kl / 2, (1 + top1) / 2).passed


gate_of_all = gate()


@given(figures)
def test_nan_never_passes(theirs):
    verdict = judge(evaluation(kl=math.nan, top1=math.nan), gate_of_all, champion(kl=theirs, top1=theirs))
    assert set(misses(verdict)) == {"kl_mean", "top1_agreement"}


@pytest.mark.parametrize("licence", ["apache-2.0", "MIT", "unknown", None])
def test_a_licence_of_the_list_is_allowed_in_any_case_of_letters(licence):
    refuse_licence(licence, gate())


def test_another_licence_is_refused_in_every_mode_before_work_begins():
    for mode in ("off", "warn", "enforce"):
        config = compose(overrides=f"gate={mode} model.licence=CC-BY-NC-4.0").config
        with pytest.raises(SlmflowError, match="licence CC-BY-NC-4.0 is not in gate.licences"):
            refuse_early(config, "sqlite:////x.db")
    strict = gate("gate.licences=[MIT]")
    with pytest.raises(SlmflowError, match="licence unknown is not in gate.licences"):
        refuse_licence(None, strict)


def test_an_unknown_licence_is_left_to_the_step_as_a_gguf_file_may_state_it():
    refuse_early(compose(overrides="model.licence=unknown gate.licences=[MIT]").config, "sqlite:////x.db")


@pytest.mark.parametrize(
    ("words", "mode"),
    [("gate=warn", "warn"), ("gate=off", "off"), ("", "enforce"), ("gate.mode=warn", "warn")],
)
def test_a_gate_is_chosen_by_its_file_or_by_its_mode(words, mode):
    assert gate(words).mode.value == mode
    assert gate(words).thresholds == gate().thresholds
