"""What personal data and secrets look like: each finder gives the places in a text that must not stay.

Repetitions are bounded, so that no text takes time quadratic in its length. Where a shape has check digits
(ISO/IEC 7812 payment cards, ISO 13616 IBANs) they decide.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator

Span = tuple[int, int]
Finder = Callable[[str], Iterator[Span]]

_SECRETS = re.compile(
    r"""
    -----BEGIN[ ][A-Z ]{0,40}PRIVATE[ ]KEY-----(?:(?!-----END).)*(?:-----END[ ][A-Z ]{0,40}-----)?
    | (?<![\w-])eyJ[\w-]{5,}+\.[\w-]{5,}+(?:\.[\w-]*)?                # JSON web token
    | (?<=://)[^\s/@:"']{0,100}:(?P<in_url>[^\s/"']{1,200})@          # postgres://user:password@host
    | (?:sk|pk|rk)[-_][A-Za-z0-9_-]{16,}                              # OpenAI, Anthropic, Stripe
    | gh[opsur]_[A-Za-z0-9]{16,} | github_pat_\w{16,} | glpat-[\w-]{16,} | hf_[A-Za-z0-9]{16,}
    | xox[abeoprs]-[A-Za-z0-9-]{10,}                                  # Slack
    | A[KS]IA[0-9A-Z]{16,} | AIza[\w-]{30,}                           # AWS, Google
    | (?i:bearer|basic)[ \t]{1,4}(?=[A-Za-z._~+/-]{0,200}\d)[\w.~+/-]{12,}={0,2}
    | (?i:pass(?:word|wd|phrase)|pwd)\\{0,4}["']?[ \t]{0,4}[=:][ \t]{0,4}\\{0,4}
      (?:["'](?P<quoted>[^"'\\\n]{1,200})|(?P<bare>[^\s"'\\,;]{1,}))
    | (?i:secret|api[_-]?key|access[_-]?key|token)\\{0,4}["']?[ \t]{0,4}[=:][ \t]{0,4}\\{0,4}
      (?:["'](?P<quoted_key>[^"'\\\n]{4,200})|(?P<bare_key>[^\s"'\\,;]{4,}))
    | (?<![A-Za-z0-9+/_-])(?=[A-Za-z+/_-]{0,99}\d)(?=[a-z0-9+/_-]{0,99}[A-Z])(?=[A-Z0-9+/_-]{0,99}[a-z])
      [A-Za-z0-9+/]{40,}={0,2}                                        # a key in base64
    | (?<![0-9A-Fa-f])(?=[A-Fa-f]{0,64}\d)[0-9A-Fa-f]{32,}            # a key in hexadecimal
    """,
    re.VERBOSE | re.DOTALL,
)
_SECRET_NAME = re.compile(r"(?i:pass(?:word|wd|phrase)|pwd|secret|api[_-]?key|access[_-]?key|token)\Z")
_EMAIL = re.compile(
    r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}(?:@|%40)(?:[\w-]{1,63}\.){1,8}[\w-]{2,63}|"
    r'"[^"\n]{1,64}"@(?:[\w-]{1,63}\.){1,8}[\w-]{2,63}'
)
_GROUPED = re.compile(r"\d+(?:[ -]\d+)*")
_CARDS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}|"
    r"3(?:0[0-5]|[68]\d)\d{11}|35\d{14}|6(?:011|5\d\d|4[4-9]\d)\d{12}|62\d{14,17}|(?:50|5[6-9]|6\d)\d{10,17}"
)
"""Numbers of Visa, Mastercard, American Express, Diners, JCB, Discover, UnionPay and Maestro."""
_IBAN = re.compile(r"[A-Za-z]{2}\d{2}(?=((?:[ -]?[A-Za-z0-9]){11,30}))")
_IPV4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3,}")
_IPV6 = re.compile(r"[0-9A-Fa-f:]{3,45}(?:(?:\.\d{1,3}){3})?")
_PHONE = re.compile(
    r"(?:\+|\b00)\d(?:[ ()./-]{0,2}\d){6,14}"  # with a country's code
    r"|(?<!\d[-./])\(?\b0\d{1,5}\)?[ ./-]{1,3}\d{2,}(?:[ ./-]\d{2,}){0,4}(?<=\d{4}|\d[ ./-]\d\d)"
    r"|\(?\d{3}\)?[ .-]{1,2}\d{3}[ .-]\d{4}"  # (555) 123-4567
)
_NUMBER = re.compile(r"\d{9,}")


def secrets(text: str) -> Iterator[Span]:
    """Keys, tokens and passwords; of `password=…` the value."""
    for found in _SECRETS.finditer(text):
        yield found.span(found.lastgroup) if found.lastgroup else found.span()


def names_secret(key: str) -> bool:
    """Whether what is assigned to a key is a secret by the key's name, as in `db_password`."""
    return _SECRET_NAME.search(key) is not None


def emails(text: str) -> Iterator[Span]:
    """Addresses, also with %40 for the sign, as in links."""
    for found in _EMAIL.finditer(text):
        yield found.span()


def cards(text: str) -> Iterator[Span]:
    """Numbers of a card scheme's shape that pass Luhn's check, in groups or not."""
    for run in _GROUPED.finditer(text):
        groups = [found.span() for found in re.finditer(r"\d+", run.group())]
        at = 0
        while at < len(groups):
            end = _card_from(run.group(), groups, at)
            if end:
                yield run.start() + groups[at][0], run.start() + groups[end - 1][1]
            at = end or at + 1


def _card_from(text: str, groups: list[Span], at: int) -> int:
    """The group behind the longest card number that begins with group `at`; 0 for none."""
    digits, found = "", 0
    for end in range(at, len(groups)):
        digits += "".join(str(int(digit)) for digit in text[slice(*groups[end])])
        if len(digits) > 19:
            break
        if _CARDS.fullmatch(digits) and passes_luhn(digits):
            found = end + 1
    return found


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of ISO/IEC 7812-1, annex B."""
    total = 0
    for at, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + at % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def ibans(text: str) -> Iterator[Span]:
    """Account numbers of 15 to 34 characters whose check digits are right, spaced or not."""
    free = 0
    for found in _IBAN.finditer(text):
        if found.start() < free:
            continue
        tail, end = found[1], 0
        for at in range(11, len(tail) + 1):
            if tail[at - 1].isalnum() and _passes_mod_97(found[0] + tail[:at]):
                end = at
        if end:
            free = found.end() + end
            yield found.start(), free


def _passes_mod_97(text: str) -> bool:
    """The check of ISO 7064, MOD 97-10, over letters as 10 to 35, the first four characters moved back."""
    bare = "".join(character for character in text if character.isalnum())
    return int("".join(str(int(character, 36)) for character in bare[4:] + bare[:4])) % 97 == 1


def addresses(text: str) -> Iterator[Span]:
    """IPv4 addresses (and any other four numbers with dots between), IPv6 addresses."""
    for found in _IPV4.finditer(text):
        yield found.span()
    for found in _IPV6.finditer(text):
        said = found.group()
        if said.count(":") < 2 or not any(character.isdigit() for character in said):
            continue
        for start, end in ((0, len(said)), (1, len(said)), (0, len(said) - 1), (1, len(said) - 1)):
            try:
                ipaddress.IPv6Address(said[start:end])
            except ValueError:
                continue
            yield found.start() + start, found.start() + end
            break


def phones(text: str) -> Iterator[Span]:
    """Numbers with a country's code, with a leading 0 and groups, or in the groups 3-3-4."""
    for found in _PHONE.finditer(text):
        yield found.span()


def numbers(text: str) -> Iterator[Span]:
    """Nine digits and more in a row: accounts, customers, orders."""
    for found in _NUMBER.finditer(text):
        yield found.span()


FINDERS: dict[str, Finder] = {
    "SECRET": secrets,
    "EMAIL": emails,
    "IBAN": ibans,
    "CARD": cards,
    "IP": addresses,
    "PHONE": phones,
    "NUMBER": numbers,
}
"""By the name of the placeholder, in the order in which they are applied."""
