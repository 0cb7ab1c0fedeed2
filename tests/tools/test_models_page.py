"""docs/models.md is what its script makes; only the figures are of the tests that it ran."""

import re

from tests.families import FAMILIES
from tools.models_page import PAGE, page


def test_the_page_is_what_the_script_makes_of_its_own_figures():
    text = PAGE.read_text()
    found = {}
    for name in FAMILIES:
        row = re.search(rf"^\| {re.escape(name)} \|(.*)$", text, re.M)
        assert row, f"{name} has no row: python -m tools.models_page"
        cells = [cell.strip() for cell in row[1].split("|")]
        fp32, int8 = cells[4], cells[5]
        engines = {f"fp32_cpu {engine}": fp32 for engine in cells[3].split(", ")}
        found[name] = engines | {"int8_cpu generate": int8}
        assert float(fp32) < 1e-7
        assert float(int8) < 0.1
    assert page(found) == text
