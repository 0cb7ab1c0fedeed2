"""Every family goes the road: its text part, the graph in three widths, both engines, each held to transformers.

The judge is the model as published, whole, by transformers' own forward: not the folder that we made of it.
"""

import numpy as np
import pytest

from slmflow.compose import compose
from slmflow.export import export_folder
from slmflow.export.proofs import prove
from slmflow.models.slm_runtime.open_engine import open_engine
from slmflow.models.slm_runtime.tokenizer import TextTokenizer
from slmflow.quality.fidelity import kl_divergence, log_softmax
from slmflow.sources.huggingface import make_huggingface
from slmflow.text import shipped_text
from tests.families import FAMILIES, make_family, whole_logits

EXPORTS = {"fp32_cpu": 1e-9, "int8_cpu": 0.1, "int4_cpu": 3.0}
"""Variants, and how far (nats) each may be from the whole model's own answer."""
TOKENS = 96


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_goes_the_road(name, tmp_path, record_property):
    tiny = FAMILIES[name]
    published = make_family(name, tmp_path / "published")
    made = make_huggingface(published, tmp_path / "text")
    source = published if made == "source" else tmp_path / "text"
    ids = None
    for variant, limit in EXPORTS.items():
        config = compose(export=variant).config.export
        folder = tmp_path / variant
        export_folder(config, source, folder, tmp_path)
        proofs = prove(folder, source, config.precision)
        assert ("continuous" in proofs["engines"]) == tiny.continuous
        if ids is None:
            ids = TextTokenizer(folder).encode(shipped_text())[:TOKENS]
            expected = log_softmax(whole_logits(published, ids))
        for engine in proofs["engines"]:
            found = log_softmax(open_engine(folder, engine).score(ids))
            kl = float(kl_divergence(expected, found).mean())
            record_property(f"{variant} {engine}", kl)
            assert kl < limit, (variant, engine)
        record_property(f"{variant} decode", proofs["logits"]["decode_kl"])
        record_property(f"{variant} batch", proofs.get("batch_kl"))
    assert np.isfinite(expected).all()
