"""A GGUF file's own codes in the model builder's graph: nothing is quantised anew, nothing is lost.

The graph (attention, rotary tables, norms) is the builder's, made on weights without values; its MatMuls and
its embedding are then given the codes and scales of the file, tensor by tensor while the folder is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slmflow.config import GenaiExport, Precision
from slmflow.errors import SlmflowError

if TYPE_CHECKING:
    from pathlib import Path

    from slmflow.config import GgufExport
    from slmflow.export import Codes


def export(
    config: GgufExport, source: Path, codes: Codes | None, folder: Path, scratch: Path
) -> dict[str, str]:
    """Build the folder. Raises SlmflowError for a model that does not come from a GGUF file."""
    if codes is None or codes.kind != "gguf":
        raise SlmflowError(
            "export=gguf takes the codes of a GGUF file, and this model has none: choose another export="
        )
    from slmflow.export.genai import build
    from slmflow.export.gguf_weights import GgufWeights
    from slmflow.export.transcode import transcoded
    from slmflow.files import gguf_files
    from slmflow.gguf.file import described
    from slmflow.gguf.header import read_gguf

    file = read_gguf(gguf_files(codes.folder)[0])
    weights = GgufWeights(file)

    def rewrite(model: Any, floats: dict[str, Any]) -> Any:
        return transcoded(model, floats, weights, config.level)

    graph = GenaiExport(precision=Precision.fp32, provider=config.provider, shared_embeddings=False)
    record = build(graph, source, folder, scratch, rewrite=rewrite)
    return record | {"level": config.level.value, "quantisation": described(file)["quantisation"]}
