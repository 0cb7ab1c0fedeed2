"""A Chromium for tests of pages, whichever server serves them; tests/pages.py leaves them out where there is none.

A test module takes the fixture by `browser = tests.serving.browser.browser`. It lives as long as its module:
a thread holds one Playwright at a time.
"""

from contextlib import contextmanager

import pytest
from playwright.sync_api import sync_playwright

from tools import chromium

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DENIED = "Failed to load resource"
"""How Chromium's console begins its line about an answer of 4xx or 5xx, or about none."""


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    path = chromium.find()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@contextmanager
def open_page(browser, url, **context):
    """A page with storage of its own at `url`; `complaints` are its console's errors and uncaught ones."""
    with browser.new_context(**context) as own:
        page = own.new_page()
        page.complaints = []
        page.on("console", lambda said: page.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(url)
        yield page
