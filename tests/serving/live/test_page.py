"""The chat page in a real browser, on the real server."""

import pytest

from tests.serving import browser as browsing

pytestmark = pytest.mark.parametrize("live", ["continuous"], indirect=True)
browser = browsing.browser


@pytest.fixture
def page(browser, live):
    with browsing.open_page(browser, live.url) as page:
        page.locator("#dot.ok").wait_for()
        yield page


def settings(page, **values):
    page.locator("summary").click()
    for name, value in values.items():
        page.fill(f"#{name}", value)
        page.locator(f"#{name}").blur()


def send(page, text):
    page.fill("#message", text)
    page.press("#message", "Enter")


def answered(page):
    """Wait by locators: the page's policy forbids the evaluation that waiting for a function needs."""
    page.locator("#send", has_text="Send").wait_for()
    page.locator(".figures").last.wait_for()


def test_a_message_is_answered_with_its_figures_and_nothing_complains(page, live):
    assert page.inner_text("h1") == "tiny-onnx"
    settings(page, max_tokens="8", temperature="0")
    send(page, "Hello")
    answered(page)
    assert "tokens/s" in page.inner_text(".figures")
    told = page.evaluate("messages.at(-1).content")
    assert told == live.text(max_tokens=8, temperature=0)
    page.click("#again")
    answered(page)
    assert page.evaluate("messages.length") == 2
    assert page.complaints == []


def test_stop_ends_the_answer_and_new_chat_clears(page):
    settings(page, max_tokens="400", temperature="1")
    send(page, "Hello")
    page.wait_for_selector("article.assistant")
    page.click("#send")
    page.locator("#send", has_text="Send").wait_for()
    page.click("#fresh")
    assert page.locator("article").count() == 0


def test_settings_are_kept_and_a_refusal_is_shown_in_words(page):
    settings(page, max_tokens="9999")
    send(page, "Hello")
    page.wait_for_selector("article.error")
    assert "more than the model's context of 512" in page.inner_text("article.error")
    page.reload()
    assert page.input_value("#max_tokens") == "9999"
    assert [one for one in page.complaints if "400" not in one] == []


def test_what_is_said_is_text_and_never_markup(page):
    settings(page, max_tokens="2")
    send(page, "<img src=x onerror='document.title=1'>")
    answered(page)
    assert page.locator("article img").count() == 0
    assert page.title() == "tiny-onnx"
