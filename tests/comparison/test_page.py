"""The comparison page in a real browser."""

import pytest
from playwright.sync_api import expect

from slmflow.comparison.entry import make_entries
from slmflow.comparison.files import write_comparison
from slmflow.compose import compose
from tests.comparison.made import evaluation, found, items
from tests.serving import browser as browsing

browser = browsing.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    made = [
        evaluation(kl=0.0, size=546e6, speed=26.0),
        evaluation("int8_cpu", kl=0.004, size=154e6, speed=170.0),
        evaluation("int4_cpu", kl=0.3, size=86e6, speed=240.0),
        evaluation("a_variant_with_quite_a_long_name", kl=0.01, size=120e6, speed=90.0),
    ]
    tables = [items(*((at * by) % 3 != 0 for at in range(9))) for by in (1, 2, 3, 4)]
    write_comparison(make_entries(found(*made, items=tables)), compose().config.gate, "tiny", folder)
    return f"file://{folder}/comparison.html"


def first_column(page):
    return [
        text.split("\n")[0]
        for text in page.locator("table").first.locator("tbody td:first-child").all_inner_texts()
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1280])
def test_nothing_is_wider_than_the_screen_and_nothing_complains(browser, address, width, scheme):
    size = {"width": width, "height": 800}
    with browsing.open_page(browser, address, viewport=size, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        expect(page.locator(".lead")).to_contain_text("Ship int8_cpu")
        expect(page.locator("svg.trade circle:visible")).to_have_count(4)
        drawn = page.locator("svg.trade:visible").bounding_box()
        assert 0 <= drawn["x"] < drawn["x"] + drawn["width"] <= width, "nobody scrolls to see a mark"
        page.locator("summary").click()
        expect(page.locator(".flips td").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        ink, ground = (
            page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor")
        )
        assert ink != ground
        assert page.complaints == []


def test_a_head_sorts_by_mouse_and_by_keyboard_and_says_how(browser, address):
    with browsing.open_page(browser, address) as page:
        speed = page.locator("table").first.locator("th", has_text="tokens/s")
        speed.locator("button").click()
        assert speed.get_attribute("aria-sort") == "descending"
        assert first_column(page)[0] == "int4_cpu"
        speed.locator("button").click()
        assert speed.get_attribute("aria-sort") == "ascending"
        assert first_column(page)[0] == "pipeline float32"
        page.locator("table").first.locator("th", has_text="MB").first.locator("button").focus()
        page.keyboard.press("Enter")
        assert first_column(page)[0] == "int4_cpu"
        assert speed.get_attribute("aria-sort") is None


def test_without_scripts_and_on_paper_all_is_there(browser, address):
    with browsing.open_page(browser, address, java_script_enabled=False) as page:
        page.emulate_media(media="print")
        assert len(first_column(page)) == 4
        expect(page.locator("dl dt").first).to_be_visible()


def test_on_a_printed_page_every_column_is_on_it_and_the_flips_are_open(browser, address):
    a4_landscape_without_margins = {"width": 1047, "height": 718}
    with browsing.open_page(browser, address, viewport=a4_landscape_without_margins) as page:
        expect(page.locator(".flips td").first).not_to_be_visible()
        page.emulate_media(media="print")
        assert page.evaluate(
            "document.querySelector('.flips td').checkVisibility({contentVisibilityAuto: true})"
        )
        assert page.locator(".flips td").first.bounding_box()["height"] > 0
        for table in page.locator(".wide table").all():
            box = table.bounding_box()
            assert box["x"] + box["width"] <= a4_landscape_without_margins["width"]
