"""What is made of the weights: export variants, and defaults of the packaged model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING

from slmflow.config.ranges import in_range


class Precision(Enum):
    """Weight precision of an exported graph."""

    fp32 = "fp32"
    int8 = "int8"
    int4 = "int4"
    source = "source"
    """As the prebuilt folder has it."""


class Provider(Enum):
    """ONNX Runtime execution provider that a graph is built for."""

    cpu = "cpu"


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
    block_size: int = 32
    """Weights that share one scale (int4 only)."""
    accuracy_level: int = 4
    """Arithmetic of quantised MatMuls on CPU: 4 computes with int8 activations, 1 with fp32."""
    is_symmetric: bool = True
    shared_embeddings: bool | None = None
    """Tie the head to the embedding in the graph; null leaves it to the model's own tying."""
    matmul_only: bool = False
    """Quantise MatMul nodes only and leave the embedding's Gather in fp32."""

    def __post_init__(self) -> None:
        if self.precision is Precision.source:
            raise ValueError("export.precision='source': the model builder makes fp32, int8 or int4")
        if self.block_size not in (16, 32, 64, 128, 256):
            raise ValueError(f"export.block_size={self.block_size!r}: allowed are 16, 32, 64, 128, 256")
        in_range("export.accuracy_level", self.accuracy_level, 0, 4)


@dataclass
class OptimumExport(ExportConfig):
    """optimum.exporters.onnx: fp32 with past."""

    exporter: str = "optimum"
    precision: Precision = Precision.fp32

    def __post_init__(self) -> None:
        if self.precision is not Precision.fp32:
            raise ValueError(f"export.precision={self.precision.value!r}: exporter optimum makes fp32 only")


@dataclass
class PrebuiltExport(ExportConfig):
    """A finished genai folder, taken as it is."""

    exporter: str = "prebuilt"
    precision: Precision = Precision.source


@dataclass
class PackageConfig:
    """Defaults that are packaged with the ONNX model; a call may override all but the threads."""

    threads: int = 0
    """Threads of the runtime; 0 is the physical cores of the machine that serves."""
    max_tokens: int = 256
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0

    def __post_init__(self) -> None:
        in_range("package.threads", self.threads, 0)
        in_range("package.max_tokens", self.max_tokens, 1)
        in_range("package.temperature", self.temperature, 0, 2)
        in_range("package.top_p", self.top_p, 0, 1)
