"""What is made of the weights: export variants, and defaults of the packaged model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING

from slmflow.config.ranges import in_range


class Precision(Enum):
    """Weight precision of an exported graph."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"
    int4 = "int4"
    gguf = "gguf"
    """As the GGUF file has it."""
    source = "source"
    """As the prebuilt folder has it."""


class Provider(Enum):
    """ONNX Runtime execution provider that a graph is built for."""

    cpu = "cpu"
    cuda = "cuda"
    dml = "dml"
    """DirectML, on Windows: Windows ML's distributions bring it, `-directml` ends at 0.14."""


RUNTIMES = {
    "cpu": ("onnxruntime-genai", "onnxruntime"),
    "cuda": ("onnxruntime-genai-cuda", "onnxruntime-gpu"),
    "dml": ("onnxruntime-genai-winml", "onnxruntime-windowsml"),
}
"""The distributions of the runtime, by execution provider."""


class Method(Enum):
    """How the weights of a block become codes; all but the last take the weights alone."""

    default = "default"
    """Scale by the largest value / -8: onnxruntime's own."""
    rtn = "rtn"
    """Round to nearest, scale by the range / 15: coarser."""
    k_quant = "k_quant"
    """Weighted least squares for scale and zero point, as llama.cpp's K-quants: slower to make."""
    gptq = "gptq"
    """Each weight's rounding error is made up for in those after it, as inputs from a calibration text weigh
    it (arXiv 2210.17323): minutes for a model of 135 M parameters, and memory for inputs squared."""


@dataclass
class ExportConfig:
    """One variant; `exporter` names the module of `slmflow.export` that makes it."""

    exporter: str = MISSING
    precision: Precision = MISSING
    provider: Provider = Provider.cpu


@dataclass
class GenaiExport(ExportConfig):
    """ONNX Runtime GenAI's model builder."""

    exporter: str = "genai"
    method: Method = Method.default
    block_size: int = 32
    """Weights that share one scale."""
    accuracy_level: int = 4
    """Arithmetic of quantised MatMuls on CPU: 4 computes with int8 activations, 1 with fp32; 0 elsewhere."""
    is_symmetric: bool = True
    """Blocks without a zero point of their own (k_quant's always have one)."""
    head_bits: int | None = None
    """8 keeps the head of an int4 graph, the most sensitive weight, at 8 bits."""
    mixed_layers: bool = False
    """8 bits for qkv, v and down of an int4 graph's first and last eighth of layers, each third between."""
    shared_embeddings: bool | None = None
    """Head and embedding are one weight in the graph; null: where the model ties them and blocks fit."""

    def __post_init__(self) -> None:
        if self.precision in (Precision.source, Precision.gguf):
            raise ValueError(
                f"export.precision={self.precision.value!r}: the model builder makes fp32, fp16, int8 or int4"
            )
        if self.block_size not in (16, 32, 64, 128, 256):
            raise ValueError(f"export.block_size={self.block_size!r}: allowed are 16, 32, 64, 128, 256")
        in_range("export.accuracy_level", self.accuracy_level, 0, 4)
        if self.head_bits not in (None, 8):
            raise ValueError(f"export.head_bits={self.head_bits!r}: allowed are 8 and null")
        if (self.head_bits or self.mixed_layers) and self.precision is not Precision.int4:
            key = "head_bits" if self.head_bits else "mixed_layers"
            raise ValueError(
                f"export.{key}={getattr(self, key)!r}: keeps a part of an int4 graph at 8 bits; "
                f"export.precision={self.precision.value!r} has no such part"
            )
        if self.method is Method.gptq and self.precision is not Precision.int4:
            raise ValueError(
                f"export.method='gptq' makes int4, not export.precision={self.precision.value!r}"
            )
        if (self.precision, self.provider) in UNSUPPORTED:
            raise ValueError(
                f"export.precision={self.precision.value!r} with export.provider={self.provider.value!r}: "
                f"{UNSUPPORTED[self.precision, self.provider]}"
            )


UNSUPPORTED = {
    (Precision.fp16, Provider.cpu): "the CPU kernels widen fp16 to fp32 and run at a tenth of its speed "
    "(genai#1098): choose fp32, int8 or int4",
    (Precision.int8, Provider.dml): "DirectML has no 8-bit MatMulNBits: choose fp16 or int4",
    (Precision.fp32, Provider.dml): "the builder makes fp16 and int4 for DirectML",
}


class Level(Enum):
    """Arithmetic of a GGUF file's codes; the weights are exactly the file's at each."""

    exact = "exact"
    """fp32 throughout; 8-bit codes as two 4-bit halves, as the 8-bit kernel has no fast fp32 form."""
    precise = "precise"
    """Activations of 15 bits: what the 8-bit kernel would round off goes through it as a second row."""
    fast = "fast"
    """Activations of 8 bits, as llama.cpp computes."""


@dataclass
class GgufExport(ExportConfig):
    """A GGUF file's own codes in the model builder's graph."""

    exporter: str = "gguf"
    precision: Precision = Precision.gguf
    level: Level = Level.precise

    def __post_init__(self) -> None:
        if self.precision is not Precision.gguf:
            raise ValueError(f"export.precision={self.precision.value!r}: exporter gguf keeps the file's own")
        if self.provider is not Provider.cpu:
            raise ValueError(
                f"export.provider={self.provider.value!r}: exporter gguf is for the CPU; "
                "for others choose export=int4_cuda, fp16_cuda, int4_dml or fp16_dml"
            )


@dataclass
class OptimumExport(ExportConfig):
    """optimum.exporters.onnx: fp32 with past."""

    exporter: str = "optimum"
    precision: Precision = Precision.fp32
    environment: str = "optimum"
    """The folder of `environments/` whose requirements the exporter runs in."""

    def __post_init__(self) -> None:
        if self.precision is not Precision.fp32:
            raise ValueError(f"export.precision={self.precision.value!r}: exporter optimum makes fp32 only")
        if self.environment != "optimum":
            raise ValueError(f"export.environment={self.environment!r}: there is 'optimum'")


@dataclass
class TracedExport(ExportConfig):
    """transformers.exporters: fp32 with past; experimental."""

    exporter: str = "traced"
    precision: Precision = Precision.fp32

    def __post_init__(self) -> None:
        if self.precision is not Precision.fp32:
            raise ValueError(f"export.precision={self.precision.value!r}: exporter traced makes fp32 only")


@dataclass
class PrebuiltExport(ExportConfig):
    """A finished genai folder, taken as it is."""

    exporter: str = "prebuilt"
    precision: Precision = Precision.source


class Engine(Enum):
    """What computes a packaged model's tokens."""

    auto = "auto"
    """`continuous` where the export proved that it gives the same tokens, else `generate`."""
    generate = "generate"
    """ONNX Runtime's generate() API, one answer at a time."""
    continuous = "continuous"
    """onnxruntime itself, many answers in one pass."""


@dataclass
class PackageConfig:
    """Defaults that are packaged with the ONNX model; a call may override all but the threads."""

    threads: int = 0
    """Threads of the runtime; 0 is the physical cores of the machine that serves."""
    max_tokens: int = 256
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    engine: Engine = Engine.auto
    deterministic: bool = False
    """Answers do not depend on what else is asked at the time: no batching and no reuse of prefixes."""
    rows: int = 16
    """Answers that are decoded together, at most."""
    waiting: int = 64
    """Requests that wait, at most; the next is refused."""
    kv_megabytes: int = 4096
    """Memory for keys and values of running requests (10**6 bytes)."""
    timeout: float = 0.0
    """Seconds from asking to the last token; 0 is no limit."""
    tracing: bool = True
    """A trace of each call, with token usage."""

    def __post_init__(self) -> None:
        in_range("package.rows", self.rows, 1)
        in_range("package.waiting", self.waiting, 1)
        in_range("package.kv_megabytes", self.kv_megabytes, 1)
        in_range("package.timeout", self.timeout, 0)
        in_range("package.threads", self.threads, 0)
        in_range("package.max_tokens", self.max_tokens, 1)
        in_range("package.temperature", self.temperature, 0, 2)
        in_range("package.top_p", self.top_p, 0, 1)
