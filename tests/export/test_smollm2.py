"""On the real weights of the default model: the bytes of the stock builder, and the blocks of the GGUF file."""

import pytest

from slmflow.compose import compose
from slmflow.export import Codes, export_folder
from slmflow.sources import take
from slmflow.sources.huggingface import make_huggingface
from tests.export.stock import assert_same_graph, stock
from tests.export.test_bounded import NOT_SHARED_BY_STOCK, QUANTISED, STOCK_FAILS_WHEN_TIED
from tests.export.test_gguf import assert_the_files_blocks_can_be_made_again

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """SmolLM2-135M as a Hugging Face folder, its head tied."""
    folder = tmp_path_factory.mktemp("smollm2")
    taken = take(compose(model="smollm2_135m").config.model.source, folder)
    make_huggingface(taken.folder, folder / "huggingface")
    return folder / "huggingface"


@pytest.mark.parametrize("export", ["fp32_cpu", *QUANTISED, "int4_asym_cpu", "int4_head8_cpu"])
def test_each_variant_of_the_default_model_has_the_bytes_of_the_stock_builder(smollm2, tmp_path, export):
    """Those that it does not share, or makes unloadable of a tied head, are compared with a head of its own."""
    config = compose(export=export).config.export
    if export in (*STOCK_FAILS_WHEN_TIED, *NOT_SHARED_BY_STOCK):
        config.shared_embeddings = False
    export_folder(config, smollm2, tmp_path / "ours", tmp_path / "scratch")
    theirs = stock(config, smollm2, tmp_path / "stock")
    assert_same_graph(tmp_path / "ours", theirs)


def test_the_files_blocks_can_be_made_again_from_its_onnx_export_bit_for_bit(smollm2, tmp_path):
    source = smollm2.parent / "source"
    path = next(source.glob("*.gguf"))
    config = compose(export="gguf_cpu").config.export
    export_folder(config, smollm2, tmp_path / "onnx", tmp_path / "scratch", Codes("gguf", source))
    assert_the_files_blocks_can_be_made_again(path, tmp_path / "onnx")
    assert (tmp_path / "onnx" / "model.onnx.data").stat().st_size < 1.01 * path.stat().st_size
