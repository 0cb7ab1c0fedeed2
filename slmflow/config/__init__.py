"""The typed schema of the configuration: what `conf/` may say.

Hydra checks names and types against these classes while it composes; `__post_init__` checks ranges when
`slmflow.compose` turns the composition into objects. Fields whose value is `???` must be given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from slmflow.config.backend import BackendConfig, DatabricksBackendConfig, LocalBackendConfig
from slmflow.config.driver import DriverConfig, Verify
from slmflow.config.export import (
    ExportConfig,
    GenaiExport,
    GgufExport,
    Level,
    Method,
    OptimumExport,
    PackageConfig,
    PrebuiltExport,
    Precision,
    Provider,
    TracedExport,
)
from slmflow.config.gate import GateConfig, GateMode, LoadTest, Promote, Threshold
from slmflow.config.judgement import EvaluateConfig
from slmflow.config.monitoring import MonitoringConfig
from slmflow.config.score import ScoreConfig
from slmflow.config.source import (
    AdapterConfig,
    Architecture,
    HubSource,
    LocalSource,
    MlflowSource,
    RandomSource,
    SourceConfig,
    WheelSource,
)

__all__ = [
    "AdapterConfig",
    "Architecture",
    "BackendConfig",
    "Config",
    "DatabricksBackendConfig",
    "DriverConfig",
    "EvaluateConfig",
    "ExportConfig",
    "GateConfig",
    "GateMode",
    "GenaiExport",
    "GgufExport",
    "HubSource",
    "Level",
    "LoadTest",
    "LocalBackendConfig",
    "LocalSource",
    "Method",
    "MlflowSource",
    "ModelConfig",
    "MonitoringConfig",
    "OptimumExport",
    "PackageConfig",
    "PrebuiltExport",
    "Precision",
    "Promote",
    "Provider",
    "RandomSource",
    "ScoreConfig",
    "SourceConfig",
    "Threshold",
    "TracedExport",
    "Verify",
    "WheelSource",
    "register_schemas",
]


@dataclass
class ModelConfig:
    """One model: where it lives and under which name it is registered."""

    name: str = MISSING
    """Prefix of the registered models: `<name>-onnx` and `<name>-pipeline`."""
    licence: str = MISSING
    """SPDX identifier, as the publisher states it; `unknown` is recorded as such."""
    source: SourceConfig = field(default_factory=SourceConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    base: str | None = None
    """For a prebuilt ONNX folder: the model configuration of the weights that it was made from."""

    def __post_init__(self) -> None:
        if self.name != MISSING and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(f"model.name={self.name!r}: allowed are letters, digits, '.', '_' and '-'")


@dataclass
class Config:
    """The whole configuration: what `conf/config.yaml` composes."""

    model: ModelConfig = field(default_factory=ModelConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    package: PackageConfig = field(default_factory=PackageConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    driver: DriverConfig = field(default_factory=DriverConfig)
    backend: BackendConfig = field(default_factory=BackendConfig)
    monitoring: MonitoringConfig = field(default_factory=MonitoringConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)

    def __post_init__(self) -> None:
        if self.export.exporter == "gguf" and self.model.adapter.given:
            raise ValueError(
                "export.exporter='gguf' takes the codes of the file as they are, and model.adapter changes "
                "the weights: choose another export, such as export=int8_cpu"
            )


SCHEMAS: dict[str, dict[str, Any]] = {
    "schema/source": {
        "hub": HubSource,
        "wheel": WheelSource,
        "local": LocalSource,
        "mlflow": MlflowSource,
        "random": RandomSource,
    },
    "schema/backend": {
        "local": LocalBackendConfig,
        "databricks": DatabricksBackendConfig,
    },
    "schema/export": {
        "genai": GenaiExport,
        "gguf": GgufExport,
        "optimum": OptimumExport,
        "traced": TracedExport,
        "prebuilt": PrebuiltExport,
    },
}
"""Config groups by which a file under `conf/` picks the fields that it may have."""


def register_schemas() -> None:
    """Put the schema where Hydra's defaults lists can name it. Idempotent."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for group, members in SCHEMAS.items():
        for name, node in members.items():
            store.store(group=group, name=name, node=node)
