"""ONNX Runtime GenAI's model builder, its memory bounded."""

from __future__ import annotations

import contextlib
import io
import shutil
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Any

from slmflow.config import GenaiExport, Method, Precision
from slmflow.errors import SlmflowError
from slmflow.export.supported import refuse_unsupported
from slmflow.files import read_json

if TYPE_CHECKING:
    from pathlib import Path

    from slmflow.export import Codes
    from slmflow.export.bounded import Rewrite
    from slmflow.export.calibration import Moments

QUANTISED = (Precision.int4, Precision.int8)


def builder_options(config: GenaiExport, model: dict[str, Any]) -> dict[str, str]:
    """The builder's extra options for a model as `described`; booleans are words there.

    Raises SlmflowError for a set of options that the builder turns into a folder that does not load.
    """
    options = {
        "shared_embeddings": str(shares_embeddings(config, model)).lower(),
        # A cache as short as the window fails where the context is shorter, and has one length for all rows.
        "windowed_kv_cache": "false",
    }
    if config.precision in QUANTISED:
        options |= {
            "algo_config": "rtn" if config.method is Method.gptq else config.method.value,
            "block_size": str(config.block_size),
            "is_symmetric": str(config.is_symmetric and config.method is not Method.gptq).lower(),
            "accuracy_level": str(config.accuracy_level),
        }
    chosen = {"last_matmul": config.head_bits is not None, "mixed_layers": config.mixed_layers}
    if any(chosen.values()):
        options["matmul_mixed_precision"] = ",".join(f"{name}:int8" for name, on in chosen.items() if on)
    return options


def shares_embeddings(config: GenaiExport, model: dict[str, Any]) -> bool:
    """Whether head and embedding are one weight in the graph."""
    tied = bool(model["tie_word_embeddings"])
    if config.shared_embeddings is None:
        return tied
    if config.shared_embeddings and not tied:
        raise SlmflowError(
            "export.shared_embeddings=true: this model's head and embedding are different weights; "
            "give false or null"
        )
    return config.shared_embeddings


def described(source: Path) -> dict[str, Any]:
    """What `builder_options` asks of a model; a class's own defaults count."""
    from transformers import AutoConfig

    return {"tie_word_embeddings": bool(AutoConfig.from_pretrained(source).tie_word_embeddings)}


def export(
    config: GenaiExport, source: Path, codes: Codes | None, folder: Path, scratch: Path
) -> dict[str, str]:
    """Build the folder; int4 takes the codes of AWQ and GPTQ as they are.

    Raises SlmflowError for an architecture that the builder does not know.
    """
    if codes is not None and codes.kind in ("awq", "gptq") and config.precision is Precision.int4:
        print(f"  the {codes.kind} codes are taken as they are")
        source = codes.folder
    if codes is not None and codes.kind == "gguf":
        print(
            f"  the file's weights are quantised anew to {config.precision.value}: "
            "export=gguf_cpu takes them as they are"
        )
    moments = None
    if config.method is Method.gptq:
        from slmflow.export.calibration import second_moments

        moments = second_moments(source)
    return build(config, source, folder, scratch, moments)


def build(
    config: GenaiExport,
    source: Path,
    folder: Path,
    scratch: Path,
    moments: Moments | None = None,
    rewrite: Rewrite | None = None,
) -> dict[str, str]:
    """Run the builder on a Hugging Face folder; `moments` and `rewrite` are those of `bounded_memory`."""
    refuse_unsupported("genai", read_json(source / "config.json"))
    options = builder_options(config, described(source))
    from onnxruntime_genai.models import builder

    from slmflow.export.bounded import bounded_memory
    from slmflow.export.builder_config import settle
    from slmflow.export.builder_faults import corrected

    arguments = (
        "",
        str(source),
        str(folder),
        config.precision.value,
        config.provider.value,
        str(scratch / "cache"),
    )
    try:
        # The builder prints a line a node; what matters of it is in the exception.
        with contextlib.redirect_stdout(io.StringIO()), corrected(), bounded_memory(moments, rewrite):
            # create_model consumes what parse_extra_options prepared: both are needed, each time.
            prepared = builder.parse_extra_options(*arguments, [f"{k}={v}" for k, v in options.items()])
            notes = settle(prepared["hf_details"]["hf_config"])
            builder.create_model(*arguments, **prepared)
    except NotImplementedError as error:
        raise SlmflowError(
            f"the model builder cannot export this architecture: {error}; try export=traced_fp32"
        ) from None
    for note in notes:
        print(f"  {note}")
    # The builder saves what transformers made of the tokenizer, which may be other rules.
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    found = {it.name: it.version for it in distributions() if it.name.startswith("onnxruntime-genai")}
    return {"method": config.method.value, **options, **found}
