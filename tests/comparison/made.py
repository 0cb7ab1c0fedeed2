"""Made evaluations for tests of comparisons."""

MACHINE = {"cpu": "one", "cores": "2", "threads": "2", "system": "Linux"}


def evaluation(export=None, kl=0.01, top1=0.95, size=100e6, speed=50.0, score=0.5, **more):
    """One as `evaluate` leaves it; without an export it is the pipeline."""
    made = {
        "candidate": "onnx" if export else "pipeline",
        "name": "tiny",
        "export": export,
        "model_id": "m-1",
        "precision": "int8" if export else "float32",
        "parameters": 135_000_000,
        "source_digest": "d",
        "fingerprint": "f",
        "fidelity": {
            "tokens": 1280.0,
            "kl_mean": kl,
            "kl_mean_se": kl / 10,
            "top1_agreement": top1,
            "top1_agreement_se": 0.01,
            "perplexity_ratio": 1.01,
            "perplexity_reference": 17.0,
        },
        "tasks": {"digest": "t", "items": 2, "score": score, "score_se": 0.03, "flips": 0.1, "kinds": {}},
        "cost": {"size_bytes": size, "decode_tokens_per_second": speed, "ttft_seconds": 0.1},
        "machine": MACHINE,
    }
    return {**made, **more}


def found(*evaluations, items=None):
    """As they are read from runs, with made ids."""
    tables = items or [None] * len(evaluations)
    return [
        (f"{number:032x}"[::-1], "7", one, table)
        for number, (one, table) in enumerate(zip(evaluations, tables, strict=True), 10)
    ]


def items(*correct, answer="said"):
    """A table of items; `correct` by item."""
    data = [[f"item-{at}", "closed", right, answer, "right", None] for at, right in enumerate(correct)]
    return {"columns": ["id", "kind", "correct", "answer", "expected", "correct_norm"], "data": data}
