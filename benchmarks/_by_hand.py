"""The same work and the same proofs as a cold run, by hand: one Python process, MLflow's own `log_model`.

    python -m benchmarks._by_hand <folder> model=tiny_phi3 "overrides=evaluate.items=none"

What `benchmarks.workflow` compares the workflow with. No child runs, no keys, no index: fetch, export, prove,
log both models, evaluate both (without task items), register both, as a notebook would, with this project's
functions.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import slmflow  # noqa: F401  switches telemetry off
from slmflow.compose import compose


def by_hand(folder: Path, words: dict[str, str]) -> dict[str, float]:
    """Do it all in `folder`; returns seconds by stage."""
    began = time.time()
    import mlflow
    import torch
    from huggingface_hub import ModelCard

    from slmflow.export import Codes, export_folder
    from slmflow.export.proofs import arithmetic, prove
    from slmflow.files import digests_under
    from slmflow.packaging import pinned
    from slmflow.packaging.onnx_model import MODELS, model_config, requirements, signature
    from slmflow.packaging.pipeline_model import REQUIREMENTS as PIPELINE
    from slmflow.packaging.pipeline_model import dtype_of
    from slmflow.quality import reference
    from slmflow.quality.candidates import load
    from slmflow.quality.cost import measure_speed
    from slmflow.quality.evaluation import Reference, greedy_answers, measure_fidelity
    from slmflow.quality.journal import Journal
    from slmflow.quality.windows import windows_of
    from slmflow.registry.gate import judge
    from slmflow.sources import take
    from slmflow.sources.huggingface import codes_in, make_huggingface
    from slmflow.sources.manifest import build_manifest
    from slmflow.text import text_of

    config = compose(**words).config
    stages = {"imports": time.time() - began}

    def done(stage: str, since: float) -> float:
        stages[stage] = time.time() - since
        return time.time()

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    with mlflow.start_run():
        now = time.time()
        taken = take(config.model.source, folder / "fetch")
        manifest = build_manifest(taken, config.model.licence)
        made = make_huggingface(taken.folder, folder / "huggingface")
        huggingface = taken.folder if made == "source" else folder / "huggingface"
        mlflow.log_artifacts(str(taken.folder), "source")
        now = done("fetch", now)
        onnx = folder / "onnx"
        kind = codes_in(taken.folder)
        codes = Codes(kind, taken.folder) if kind else None
        export_folder(config.export, huggingface, onnx, folder / "scratch", codes)
        prove(onnx, huggingface, arithmetic(config.export))
        digests_under(onnx)
        mlflow.log_artifacts(str(onnx), "onnx")
        now = done("export_onnx", now)
        pipeline = mlflow.transformers.log_model(
            transformers_model=str(huggingface),
            name="pipeline",
            task="llm/v1/chat",
            torch_dtype=getattr(torch, dtype_of(huggingface)),
            pip_requirements=pinned(*PIPELINE),
            model_card=ModelCard("# by hand"),
        )
        now = done("log_pipeline", now)
        sys.path.append(str(MODELS))
        logged = mlflow.pyfunc.log_model(
            name="onnx",
            python_model=str(MODELS / "chat_model.py"),
            code_paths=[str(MODELS / "slm_runtime")],
            artifacts={"onnx": str(onnx)},
            signature=signature(),
            pip_requirements=requirements("cpu"),
            model_config=model_config(config.model.name, config.package, ["generate"]),
        )
        now = done("log_onnx", now)
        for kind, info in (("pipeline", pipeline), ("onnx", logged)):
            settings = config.evaluate
            candidate = load(kind, f"models:/{info.model_id}")
            ids = candidate.encode(text_of(settings.text))
            windows = windows_of(ids, settings.window, settings.windows, candidate.encode(""))
            prompt = ids[: settings.prompt_tokens]
            cost = measure_speed(candidate, prompt, settings.new_tokens, settings.repeats)
            journal = Journal(f"by-hand-{os.getpid()}-{kind}")
            if kind == "pipeline":
                place = folder / "logprobs.npy"
                logs = reference.scored_logprobs(huggingface, windows, place)
                fidelity, _ = measure_fidelity(candidate, windows, Reference(logs, []), journal)
                greedy = greedy_answers(candidate, windows)
                reference.save(folder / "reference", place, greedy, windows, manifest["digest"], "")
                mlflow.log_artifacts(str(folder / "reference"), "reference")
            else:
                fidelity, _ = measure_fidelity(candidate, windows, Reference(logs, greedy), journal)
            journal.close()
            precision = "float32" if kind == "pipeline" else config.export.precision.value
            evaluation = {
                "candidate": kind,
                "parameters": manifest["parameters"],
                "precision": precision,
                "fidelity": fidelity,
                "cost": cost,
            }
            verdict = judge(evaluation, config.gate)
            now = done(f"evaluate_{kind}", now)
            if verdict.passed:
                mlflow.register_model(f"models:/{info.model_id}", f"{config.model.name}-{kind}")
            now = done(f"register_{kind}", now)
            del candidate
    return stages


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    target.mkdir(parents=True, exist_ok=True)
    for stage, seconds in by_hand(target, dict(word.split("=", 1) for word in sys.argv[2:])).items():
        print(f"{stage} {seconds:.2f}")
