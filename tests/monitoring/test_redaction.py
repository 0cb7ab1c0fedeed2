"""Redaction: what is planted never survives, what is harmless stays, own rules are refused by name."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmflow.errors import SlmflowError
from slmflow.monitoring.patterns import passes_luhn
from slmflow.monitoring.redaction import Redactor, read_rules

SECRETS = {
    "EMAIL": ["ada.lovelace+x@mail.example.org", "o'neil@example.co.uk", "ada%40example.org", "ж@почта.рф"],
    "CARD": ["4111111111111111", "4111 1111 1111 1111", "5500-0000-0000-0004", "3782 822463 10005"],
    "IBAN": ["DE89370400440532013000", "DE89 3704 0044 0532 0130 00", "gb82 west 1234 5698 7654 32"],
    "IP": ["192.168.0.17", "2001:db8:85a3::8a2e:370:7334", "fe80::1"],
    "PHONE": [
        "+49 170 1234567",
        "+1 (555) 123-4567",
        "(555) 123-4567",
        "555.123.4567",
        "0170/1234567",
        "030 12 34 56",
    ],
    "SECRET": [
        "sk-proj-abcDEF0123456789abcdef",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "AKIAIOSFODNN7EXAMPLE",
        "Bearer abcdef123456.ghi",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY0",
        "0123456789abcdef0123456789abcdef",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc\n-----END RSA PRIVATE KEY-----",
    ],
    "NUMBER": ["123456789", "4111111111111112345678"],
}
PLANTED = [(name, secret) for name, secrets in SECRETS.items() for secret in secrets]
HARMLESS = st.text(st.characters(exclude_categories=["Nd", "Cs"], exclude_characters="@:=%"), max_size=12)
"""Without what makes a secret: digits, the sign of an address, an assignment."""


@pytest.mark.parametrize(("name", "secret"), PLANTED)
def test_each_kind_becomes_its_placeholder(name, secret):
    redactor = Redactor()
    assert redactor.text(f"Mine is {secret}, thanks.") == f"Mine is [{name}], thanks."
    assert redactor.counts == {name: 1}


@given(st.sampled_from(PLANTED), st.text(max_size=30), st.text(max_size=30))
def test_no_planted_secret_survives_in_any_surroundings(planted, before, after):
    secret = planted[1]
    assert secret not in Redactor().text(f"{before} {secret} {after}")


@given(st.lists(st.one_of(st.sampled_from([secret for _, secret in PLANTED]), HARMLESS), max_size=6))
def test_no_secret_survives_beside_another(words):
    said = Redactor().text(" , ".join(words))
    assert not [secret for _, secret in PLANTED if secret in said]


@given(HARMLESS, HARMLESS)
def test_a_text_without_any_stays_as_it_was(first, second):
    redactor = Redactor()
    text = f"{first} 12 {second}"
    assert redactor.text(text) == text
    assert not redactor.counts


@pytest.mark.parametrize(
    "text",
    [
        "On 2026-11-22 at 12:30:15, 3.14159 of 1,000,000 cost 99.95.",
        "Version 1.2.3, pages 10-20, 2024-01-01 2024-12-31, 20261122",
        "std::vector<int> a::b, add::sub, C:\\temp, 16:9, 1:2:3",
        "The bearer of bad tidings has no password or secret, none.",
        "f(x) = 10 * 20 / 30 + 40; user@localhost",
        "a1b2c3 and deadbeef, 550e8400-e29b",
        '{"a": [1, 2.5, true, null], "zip": "10115"}',
        "antidisestablishmentarianismandthelongestwordthatonecanthinkof",
    ],
)
def test_harmless_numbers_and_words_stay(text):
    assert Redactor().text(text) == text


@given(
    st.recursive(
        st.text(max_size=10) | st.sampled_from([s for _, s in PLANTED]) | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.text(max_size=5) | st.sampled_from([s for _, s in PLANTED]), inner, max_size=3
            )
        ),
    )
)
def test_no_secret_survives_in_a_json_value_and_the_value_stays_json(value):
    said = Redactor().value(value)
    told = json.dumps(said, ensure_ascii=False)
    for _, secret in PLANTED:
        assert json.dumps(secret, ensure_ascii=False)[1:-1] not in told


@pytest.mark.parametrize("first", SECRETS["IP"])
@pytest.mark.parametrize("second", SECRETS["IP"])
def test_two_of_a_kind_are_found_in_any_order(first, second):
    assert Redactor().text(f"{first} {second}") == "[IP] [IP]"


@pytest.mark.parametrize(
    "text",
    [
        "password=hunter22",
        "API_KEY: 'hunter22'",
        '"secret": "hunter22"',
        "passwd = hunter22.",
        "pwd=hunter22",
        "token: hunter22",
        'password: "my hunter22"',
        "postgres://user:hunter22@db/x",
        "redis://:p@hunter22@localhost:6379",
        r"{\"password\": \"hunter22\"}",
    ],
)
def test_of_an_assignment_the_value_is_redacted(text):
    said = Redactor().text(text)
    assert "hunter22" not in said
    assert said.startswith(text[:3])


@pytest.mark.parametrize("text", ["password=x1", "pwd: abc", 'passwd="z"'])
def test_a_short_password_is_one_too(text):
    assert "[SECRET]" in Redactor().text(text)


def test_an_entry_is_judged_with_its_key_in_json_within_json_too():
    inner = json.dumps({"db_password": "hunter22secret", "pin": {"pwd": 1234}, "max_tokens": 64, "note": ""})
    call = {"function": {"name": "log_in", "arguments": json.dumps({"password": "hunter22", "body": inner})}}
    redactor = Redactor()
    said = redactor.value(call)
    assert "hunter22" not in json.dumps(said)
    arguments = json.loads(said["function"]["arguments"])
    assert arguments["password"] == "[SECRET]"
    assert redactor.counts["SECRET"] == 3
    direct = Redactor().value(json.loads(inner))
    assert direct == {"db_password": "[SECRET]", "pin": {"pwd": "[SECRET]"}, "max_tokens": 64, "note": ""}


def test_what_describes_a_secret_and_holds_none_stays():
    schema = {"properties": {"password": {"type": "string"}}, "required": ["password"], "token": True}
    assert Redactor().value(schema) == schema


def test_arguments_of_a_tool_call_stay_json():
    call = {"function": {"name": "pay", "arguments": '{"card": 4111111111111111, "n": 2}'}}
    assert json.loads(Redactor().value(call)["function"]["arguments"]) == {"card": "[CARD]", "n": 2}


def test_what_was_redacted_is_redacted_no_further():
    text = "ada@example.org, +49 170 1234567"
    once = Redactor().text(text)
    assert Redactor().text(once) == once == "[EMAIL], [PHONE]"


@given(st.text(string.digits, min_size=12, max_size=18))
def test_luhn_accepts_one_check_digit_of_ten(digits):
    assert sum(passes_luhn(digits + check) for check in string.digits) == 1


def test_a_long_text_takes_no_quadratic_time():
    for text in (
        "a" * 200_000,
        "a." * 100_000,
        "1 " * 20_000,
        "1:" * 100_000,
        "DE89 " * 5_000,
        "-" * 200_000,
        "eyJ" * 100_000,
        "://" * 100_000,
        "password" * 50_000,
        "password=\\" * 20_000,
    ):
        Redactor().text(text)


def rules(folder, text):
    path = folder / "rules.yaml"
    path.write_text(text)
    return read_rules(str(path))


def test_own_rules_come_first(tmp_path):
    own = rules(tmp_path, "ORDER: 'O-\\d+'\n")
    assert Redactor(own).text("O-123456789 of 987654321") == "[ORDER] of [NUMBER]"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ORDER: '('", "ORDER: no regular expression"),
        ("ORDER: 'x*'", "ORDER: matches the empty text"),
        ("order: 'x'", "order: a name is of A-Z"),
        ("EMAIL: 'x'", "EMAIL: there is a shipped rule"),
        ("ORDER: 5", "ORDER: the regular expression must be text"),
        ("- x", "mapping"),
        ("a: [", "no YAML"),
    ],
)
def test_a_bad_rule_is_refused_by_its_name(tmp_path, text, said):
    with pytest.raises(SlmflowError, match=said):
        rules(tmp_path, text)


def test_rules_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(SlmflowError, match="cannot be read"):
        read_rules(str(tmp_path / "none.yaml"))


def test_a_rule_that_takes_for_ever_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("slmflow.monitoring.redaction.SECONDS", 0.2)
    own = rules(tmp_path, "SLOW: '(a|aa)+$'\n")
    with pytest.raises(SlmflowError, match="SLOW: took more than 0.2 seconds"):
        Redactor(own).text("a" * 80 + "b")
