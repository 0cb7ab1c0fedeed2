"""Write docs/models.md from the results of tests/export/test_families.py.

python -m tools.models_page                    # runs those tests (a minute), then writes the page
python -m tools.models_page results.xml        # of a run with pytest's --junitxml that is there already
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from slmflow.export.supported import BUILDER, BY_NAME
from slmflow.gguf.families import FAMILIES as GGUF
from tests.families import FAMILIES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "models.md"
TESTS = "tests/export/test_families.py"
BEGINNING = """# Models

Made by `python -m tools.models_page` from the results of `tests/export/test_families.py`, not by hand. Each
family is tried with a tiny random model of its true class, all kinds of its layers in it: its text part, the
graph in three widths, both engines, proofs. The judge is the whole model as its publishers lay it out, by
transformers' own forward. *Published weights of these families were not run here, where there is no hub.*

"""
AFTER = """
KL divergence in nats a token, the mean of 96 tokens, of `fp32_cpu` and of `int8_cpu`: a random model of 64
columns loses more to 8 bits than a trained one. `continuous` decodes rows together, `generate` one after the
other. *Text part*: the model also sees or hears; that is left out, and said in the manifest, on the version
and on its page.

Beyond these a model is refused by its config.json, before anything is downloaded:

"""
FACTS = """
What to know of some:

- Ministral 3 ends at the context that its positions were trained for (16,384 tokens of the published ones):
  beyond it queries are scaled by their position, which the builder's graph does not do.
- Gemma 2's cap on attention scores is in the graph and in the reference. The pipeline leaves it out, as
  transformers loads it: `attn_implementation="eager"` takes it.
- A row of Qwen3.5, LFM2 or LFM2-MoE carries states of convolutions and recurrent layers. A cached prefix is
  reused whole or not at all: the next turn of a chat reuses it, another chat with the same system prompt
  does not.
"""


def results(path: Path) -> dict[str, dict[str, str]]:
    """What the test of each family recorded. Raises ValueError where one did not pass."""
    found = {}
    for case in ElementTree.parse(path).iter("testcase"):  # noqa: S314 (written by our own tests)
        name = str(case.get("name")).partition("[")[2].rstrip("]")
        if name not in FAMILIES or "goes_the_road" not in str(case.get("name")):
            continue
        if case.find("failure") is not None or case.find("error") is not None:
            raise ValueError(f"{name} did not go the road: mend it first")
        found[name] = {str(one.get("name")): str(one.get("value")) for one in case.iter("property")}
    if missing := set(FAMILIES) - set(found):
        raise ValueError(f"no result of {', '.join(sorted(missing))}")
    return found


def page(found: dict[str, dict[str, str]]) -> str:
    """The page's text."""
    head = ("family", "model_type", "taken", "exporters", "engines", "KL fp32", "KL int8", "from GGUF")
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    read = {family.model_type for family in GGUF.values()}
    for name, tiny in FAMILIES.items():
        of = found[name]
        engines = ", ".join(engine for engine in ("continuous", "generate") if f"fp32_cpu {engine}" in of)
        cells = (
            name,
            f"`{tiny.kind}`",
            "text part" if tiny.whole else "whole",
            "model builder",
            engines,
            f"{float(of['fp32_cpu generate']):.0e}",
            f"{float(of['int8_cpu generate']):.1g}",
            "yes" if tiny.kind in read else "no",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lacks = [f"- `{kind}` with {what}" for kind, lack in sorted(BUILDER.items()) for _, what in lack]
    lacks += [f"- `{kind}`: {why}" for kind, why in BY_NAME.items()]
    lacks.append("- any other `model_type`: `export=traced_fp32` takes what transformers itself can trace")
    return BEGINNING + "\n".join(lines) + "\n" + AFTER + "\n".join(lacks) + "\n" + FACTS


def main(words: list[str]) -> None:
    """Write the page."""
    if words:
        PAGE.write_text(page(results(Path(words[0]))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "results.xml"
        command = [sys.executable, "-m", "pytest", "-q", TESTS, "-k", "goes_the_road", f"--junitxml={place}"]
        subprocess.run(command, check=True)
        PAGE.write_text(page(results(place)))


if __name__ == "__main__":
    main(sys.argv[1:])
