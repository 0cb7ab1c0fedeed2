"""Every family goes the road: its text part, the graph in three widths, both engines, each held to transformers.

The judge is the model as published, whole, by transformers' own forward: not the folder that we made of it.
"""

import numpy as np
import pytest

from slmflow.compose import compose
from slmflow.export import export_folder
from slmflow.export.proofs import prove
from slmflow.files import sha256_of
from slmflow.models.slm_runtime.open_engine import open_engine
from slmflow.models.slm_runtime.tokenizer import TextTokenizer
from slmflow.quality.fidelity import kl_divergence, log_softmax
from slmflow.sources.huggingface import make_huggingface
from slmflow.text import shipped_text
from tests.export.stock import stock
from tests.families import FAMILIES, make_family, text_and_graph, whole_logits

EXPORTS = {"fp32_cpu": 1e-7, "int8_cpu": 0.1, "int4_cpu": 3.0}
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


SAME_AS_STOCK = (
    *("Llama 3.2", "Phi-4-mini", "Qwen2.5", "Qwen3", "Qwen3.5", "Gemma 1", "Gemma 2", "LFM2", "LFM2-MoE"),
    *("Granite 3", "Granite 4 dense", "Ernie 4.5", "HunYuan dense", "Nemotron", "Phi-2"),
)
"""Families that the stock builder reads rightly: of Qwen3.5 the whole model, we its text part."""


@pytest.mark.parametrize("export", ["fp32_cpu", "int4_cpu"])
@pytest.mark.parametrize("name", SAME_AS_STOCK)
def test_it_has_the_bytes_of_the_stock_builder_where_that_is_right(name, export, tmp_path):
    _, ours = text_and_graph(name, tmp_path, export)
    config = compose(export=export).config.export
    theirs = stock(config, tmp_path / "published", tmp_path / "stock")
    for file in ("model.onnx", "model.onnx.data"):
        assert sha256_of(ours / file) == sha256_of(theirs / file), file
