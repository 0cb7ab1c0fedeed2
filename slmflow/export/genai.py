"""ONNX Runtime GenAI's model builder."""

from __future__ import annotations

import contextlib
import io
import logging
from importlib.metadata import version
from typing import TYPE_CHECKING

from slmflow.config import GenaiExport, Precision
from slmflow.errors import SlmflowError

if TYPE_CHECKING:
    from pathlib import Path


def builder_options(config: GenaiExport) -> dict[str, str]:
    """The builder's extra options; booleans must be words, and the old `int4_*` names are deprecated."""
    options = {}
    if config.precision is Precision.int4:
        options["block_size"] = str(config.block_size)
        options["is_symmetric"] = str(config.is_symmetric).lower()
    if config.precision in (Precision.int4, Precision.int8):
        options["accuracy_level"] = str(config.accuracy_level)
        if config.matmul_only:
            options["op_types_to_quantize"] = "MatMul"
    if config.shared_embeddings is not None:
        options["shared_embeddings"] = str(config.shared_embeddings).lower()
    return options


def export(config: GenaiExport, source: Path, folder: Path, scratch: Path) -> dict[str, str]:
    """Build the folder. Raises SlmflowError for an architecture that the builder does not know."""
    from onnxruntime_genai.models import builder

    options = builder_options(config)
    arguments = (
        "",
        str(source),
        str(folder),
        config.precision.value,
        config.provider.value,
        str(scratch / "cache"),
    )
    # The builder prints a line a node; what matters of it is in the exception.
    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            # create_model consumes what parse_extra_options prepared: both are needed, each time.
            prepared = builder.parse_extra_options(*arguments, [f"{k}={v}" for k, v in options.items()])
            builder.create_model(*arguments, **prepared)
    except NotImplementedError as error:
        raise SlmflowError(
            f"the model builder cannot export this architecture: {error}; try export=optimum_fp32"
        ) from None
    return {**options, "onnxruntime-genai": version("onnxruntime-genai")}
