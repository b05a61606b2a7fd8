"""Relay URLs."""

import pytest

from pysmtpd.base.relay_url import RelayUrl, Schema, literal, parse


@pytest.mark.parametrize(("text", "url"), [
    ("hub.example", RelayUrl(Schema.SMTP, "hub.example", 25)),
    ("smtp://hub.example", RelayUrl(Schema.SMTP, "hub.example", 25)),
    ("SMTP://hub.example:2525", RelayUrl(Schema.SMTP, "hub.example", 2525)),
    ("smtp+tls://hub.example", RelayUrl(Schema.SMTP_TLS, "hub.example", 25)),
    ("smtp+notls://hub", RelayUrl(Schema.SMTP_NOTLS, "hub", 25)),
    ("smtps://me@hub.example", RelayUrl(Schema.SMTPS, "hub.example", 465, "me")),
    ("smtp+tls://me@hub.example:587", RelayUrl(Schema.SMTP_TLS, "hub.example", 587, "me")),
    ("lmtp://127.0.0.1:24", RelayUrl(Schema.LMTP, "127.0.0.1", 24)),
    ("smtp://[2001:db8::1]:26", RelayUrl(Schema.SMTP, "2001:db8::1", 26)),
    ("smtp://[192.0.2.1]", RelayUrl(Schema.SMTP, "192.0.2.1", 25)),
    ("[::1]", RelayUrl(Schema.SMTP, "::1", 25)),
])
def test_good_ones(text: str, url: RelayUrl) -> None:
    assert parse(text) == url


@pytest.mark.parametrize("text", [
    "", "smtp://", "http://hub", "lmtp://hub", "smtp://hub:0", "smtp://hub:65536", "smtp://hub:x", "smtp://me@hub",
    "lmtp://me@hub:24", "smtps://@hub", "smtp://2001:db8::1", "smtp://[hub]", "smtp://hub/x", "smtp://a b",
    "smtp://-hub", "smtp://hub..example", "smtp://hub\n", "x" * 1024,
])
def test_bad_ones(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_literals() -> None:
    assert literal("[IPv6:2001:DB8:0::1]") == "2001:db8::1"
    assert literal("192.0.2.1") == literal("[192.0.2.1]") == "192.0.2.1"
    assert literal("hub.example") is literal("192.0.2.256") is None
