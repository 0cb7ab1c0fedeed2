"""The page that tries the model, and the policy that lets it run nothing but its own inline parts."""

from __future__ import annotations

import base64
import hashlib
from html.parser import HTMLParser
from pathlib import Path

from starlette.responses import HTMLResponse

PAGE = Path(__file__).with_name("page.html")
FIXED = (
    "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class _Inline(HTMLParser):
    """The contents of the inline scripts and styles of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, list[str]] = {"script": [], "style": []}
        self._within = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.parts:
            self._within = tag
            self.parts[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within:
            self.parts[self._within][-1] += data


def policy_of(html: str) -> str:
    """The Content-Security-Policy of a page: its inline scripts and styles by their sha256, no other."""
    inline = _Inline()
    inline.feed(html)
    inline.close()
    words = [FIXED]
    for tag, parts in inline.parts.items():
        digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts]
        if digests:
            words.append(f"{tag}-src " + " ".join(f"'sha256-{digest}'" for digest in digests))
    return "; ".join(words)


def page_response() -> HTMLResponse | None:
    """The page with its policy; None where it was not installed."""
    try:
        html = PAGE.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    headers = {
        "Content-Security-Policy": policy_of(html),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return HTMLResponse(html, headers=headers)
