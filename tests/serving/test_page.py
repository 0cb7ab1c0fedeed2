"""The chat page in a real browser, on a stand-in that can also be slow, broken and hostile."""

import time

import pytest
from playwright.sync_api import expect

from tests.serving import browser as browsing
from tests.serving.conftest import wait_for
from tests.serving.stand_in_server import HOSTILE, SPLIT, Server, StandIn

browser = browsing.browser
TOKEN = "secret"


@pytest.fixture(scope="module")
def address():
    started = Server()
    yield started
    started.stop()


@pytest.fixture
def server(address):
    address.stand_in = StandIn(address.url)
    yield address.stand_in
    address.stand_in.gate.set()


@pytest.fixture
def page(browser, server):
    with browsing.open_page(browser, server.url) as page:
        page.locator("#dot.ok").wait_for()
        yield page


def send(page, text):
    page.fill("#message", text)
    page.press("#message", "Enter")


def answered(page):
    expect(page.locator("#send")).to_have_text("Send")


def answer(page):
    """The text of the last answer without its line of figures."""
    return page.locator("article.assistant").last.evaluate("one => one.firstChild.data")


def settings(page, **values):
    page.locator("summary").click()
    for name, value in values.items():
        page.fill(f"#{name}", value)


def test_the_page_sends_and_streams_and_says_how_fast(page, server):
    expect(page.locator("h1")).to_have_text("smollm2-135m")
    send(page, "gated")
    said = page.locator("article.assistant")
    expect(said).to_contain_text("You said:")
    expect(page.locator("#send")).to_have_text("Stop")
    expect(page.locator("main")).to_have_attribute("aria-busy", "true")
    server.gate.set()
    expect(said).to_contain_text("You said: gated")
    expect(page.locator(".figures")).to_contain_text("3 tokens")
    figures = page.locator(".figures").inner_text()
    assert " ms to " in figures
    assert 0 < float(figures.split("·")[2].split()[0]) < 110
    asked = server.asked[0]
    assert asked["model"] == "smollm2-135m"
    assert asked["stream"] is True
    assert asked["stream_options"] == {"include_usage": True}
    assert asked["messages"] == [{"role": "user", "content": "gated"}]
    assert "seed" not in asked
    assert 0 < asked["temperature"] <= 1


def test_the_next_request_holds_the_talk_and_the_system_prompt(page, server):
    settings(page, system="Be brief.")
    for text in ("one", "two"):
        send(page, text)
        answered(page)
    assert [(said["role"], said["content"]) for said in server.asked[1]["messages"]] == [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "You said: one"),
        ("user", "two"),
    ]


def test_regenerating_asks_the_same_again_and_replaces_the_answer(page, server):
    send(page, "hello")
    answered(page)
    page.click("#again")
    wait_for(lambda: len(server.asked) == 2)
    answered(page)
    assert server.asked[0] == server.asked[1]
    assert page.locator("article").count() == 2


def test_a_new_chat_forgets_even_while_an_answer_comes(page, server):
    send(page, "slow")
    expect(page.locator("article.assistant")).to_contain_text("2 ")
    page.click("#fresh")
    wait_for(lambda: server.gone == 1)
    expect(page.locator("article")).to_have_count(0)
    send(page, "hello")
    answered(page)
    assert len(server.asked[1]["messages"]) == 1
    assert page.complaints == []


@pytest.mark.parametrize("how", ["button", "key"])
def test_stop_ends_the_answer_at_the_server_too_and_keeps_what_was_said(page, server, how):
    send(page, "slow")
    expect(page.locator("article.assistant")).to_contain_text("3 ")
    if how == "button":
        page.click("#send")
    else:
        page.press("#message", "Escape")
    answered(page)
    wait_for(lambda: server.gone == 1)
    expect(page.locator(".figures")).to_contain_text("stopped")
    kept = answer(page)
    time.sleep(0.2)
    assert answer(page) == kept
    assert page.locator("article.error").count() == 0
    assert page.complaints == []


def test_what_the_model_says_stays_text(page):
    send(page, "html")
    answered(page)
    assert answer(page) == HOSTILE
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "smollm2-135m"
    assert page.complaints == []


def test_characters_and_events_that_the_network_splits_arrive_whole(page):
    send(page, "split")
    answered(page)
    assert answer(page) == SPLIT
    send(page, "crlf")
    answered(page)
    assert answer(page) == "by CRLF"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("429", "busy"),
        ("503", "not ready"),
        ("500", "the stand-in says 500"),
        ("400", "the stand-in says 400"),
        ("break", "the worker ended while it answered"),
        ("cut", "broke off"),
        ("short", "broke off"),
    ],
)
def test_errors_are_shown_in_words_and_the_next_message_works(page, server, said, shown):
    send(page, said)
    expect(page.locator("article.error")).to_contain_text(shown)
    if said in ("429", "503"):
        expect(page.locator("article.error")).to_contain_text("7 s")
    answered(page)
    send(page, "hello")
    expect(page.locator("article.assistant").last).to_contain_text("You said: hello")
    roles = [one["role"] for one in server.asked[-1]["messages"]]
    assert roles == (["user"] if said.isdecimal() else ["user", "assistant", "user"])
    assert [one for one in page.complaints if not one.startswith(browsing.DENIED)] == []


def test_a_network_that_is_down_is_said_and_again_asks_once_more(page):
    page.context.set_offline(True)
    send(page, "hello")
    expect(page.locator("article.error")).to_contain_text("cannot be reached")
    page.context.set_offline(False)
    page.click("#again")
    expect(page.locator("article.assistant")).to_contain_text("You said: hello")
    assert page.locator("article.error").count() == 0


def test_a_server_that_wants_a_token_is_given_one_for_this_session_only(browser, server):
    server.token = TOKEN
    with browsing.open_page(browser, server.url) as page:
        expect(page.locator("#token")).to_be_focused()
        send(page, "hello")
        expect(page.locator("article.error")).to_contain_text("token")
        expect(page.locator("#token")).to_be_focused()
        page.fill("#token", TOKEN)
        page.press("#token", "Enter")
        expect(page.locator("article.assistant")).to_contain_text("You said: hello")
        assert page.locator("article.error").count() == 0
        page.reload()
        expect(page.locator("h1")).to_have_text("smollm2-135m")
        assert TOKEN not in page.evaluate("JSON.stringify(localStorage)")


def test_settings_survive_a_reload_and_are_sent(page, server):
    values = {"temperature": "0.1", "top_p": "0.5", "max_tokens": "33", "seed": "7", "system": "Be kind."}
    settings(page, **values)
    page.reload()
    assert {name: page.input_value(f"#{name}") for name in values} == values
    send(page, "hello")
    answered(page)
    asked = server.asked[0]
    assert [asked[name] for name in ("temperature", "top_p", "max_tokens", "seed")] == [0.1, 0.5, 33, 7]


def test_a_line_is_broken_by_shift_and_enter_and_composed_text_is_not_sent(page, server):
    page.locator("#message").focus()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    composing = (
        "new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true, cancelable: true})"
    )
    assert page.locator("#message").evaluate(f"box => box.dispatchEvent({composing})")
    assert page.input_value("#message") == "one\ntwo"
    page.keyboard.press("Enter")
    answered(page)
    assert [one["messages"][0]["content"] for one in server.asked] == ["one\ntwo"]


def test_the_view_follows_the_answer_until_the_user_scrolls_up(page, server):
    send(page, "long")
    talk = page.locator("main")
    expect(talk).to_contain_text("line 70")
    assert talk.evaluate("one => one.scrollHeight - one.scrollTop - one.clientHeight") < 60
    talk.evaluate("one => { one.scrollTop = 100; }")
    server.gate.set()
    expect(talk).to_contain_text("line 119")
    assert talk.evaluate("one => one.scrollTop") == 100
    expect(page.locator(".figures")).to_contain_text("max tokens")


def test_the_dot_tells_a_server_that_is_not_ready(browser, server):
    server.ready = False
    with browsing.open_page(browser, server.url) as page:
        expect(page.locator("#dot.bad")).to_have_attribute("aria-label", "loading")
        expect(page.locator("#state")).to_have_text("loading")
        server.ready = True
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator("#dot.ok")).to_have_attribute("aria-label", "ready")


def test_every_control_has_a_name_and_the_answer_is_announced_when_it_is_whole(page):
    settings(page)
    unnamed = (
        "all => all.filter(one => !one.labels?.length && !one.ariaLabel && !one.textContent.trim()).length"
    )
    assert page.locator("input, textarea, button").evaluate_all(unnamed) == 0
    send(page, "hello")
    answered(page)
    expect(page.locator("main[aria-live=polite]")).to_have_attribute("aria-busy", "false")
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_opening_the_settings_leaves_the_end_of_the_talk_in_view(page, server):
    server.gate.set()
    send(page, "long")
    answered(page)
    settings(page)
    expect(page.locator(".figures")).to_be_in_viewport()


@pytest.mark.parametrize("width", [320, 1280])
def test_nothing_is_wider_than_the_screen(browser, server, width):
    with browsing.open_page(browser, server.url, viewport={"width": width, "height": 600}) as page:
        page.locator("#dot.ok").wait_for()
        settings(page)
        send(page, "W" * 300)
        answered(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        expect(page.locator("#send")).to_be_in_viewport()


def test_the_policy_lets_nothing_run_but_the_page_itself(page):
    assert page.complaints == []
    page.evaluate("document.body.insertAdjacentHTML('beforeend', `<img src=x onerror='document.title=1'>`)")
    wait_for(lambda: page.evaluate("1") and any("Content Security Policy" in one for one in page.complaints))
    assert page.title() == "smollm2-135m"
