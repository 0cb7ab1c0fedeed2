"""A finished genai folder, taken as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slmflow.errors import SlmflowError
from slmflow.files import link_tree

if TYPE_CHECKING:
    from pathlib import Path

    from slmflow.config import PrebuiltExport
    from slmflow.export import Codes


def export(
    config: PrebuiltExport, source: Path, codes: Codes | None, folder: Path, scratch: Path
) -> dict[str, str]:
    """Link or copy the folder. Raises SlmflowError when the source is not one."""
    if not (source / "genai_config.json").is_file():
        raise SlmflowError(
            "the source is no finished genai folder (no genai_config.json): choose another export="
        )
    # The runtime would load, and so run, whatever library the configuration names.
    if "custom_ops_library" in (source / "genai_config.json").read_text(encoding="utf-8"):
        raise SlmflowError("genai_config.json names a custom_ops_library: a model's own code is never run")
    link_tree(source, folder)
    return {}
