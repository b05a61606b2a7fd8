"""The filter for fail2ban matches the line of a failed AUTH, and nothing a stranger can put into other lines."""

import configparser
import re
from pathlib import Path

import pytest

from pysmtpd.base import logline

FILTER = Path(__file__).parent.parent / "etc/fail2ban/pysmtpd.conf"


class Either:
    """The filter's expressions, of which any may match."""

    def __init__(self) -> None:
        parser = configparser.RawConfigParser()
        parser.read(FILTER)
        host = r"(?P<host>[0-9a-fA-F:.]+|[\w.-]+)"
        self.all = [re.compile(one.replace("<HOST>", host)) for one in parser["Definition"]["failregex"].splitlines()]

    def search(self, text: str) -> re.Match[str] | None:
        return next((match for one in self.all if (match := one.search(text))), None)


def regex() -> Either:
    """As fail2ban makes it: HOST is an address or a name."""
    return Either()


def line(address: str = "192.0.2.10", user: str = "joe") -> str:
    return logline.SMTP_AUTH_FAILED.format(id=7, address=logline.address_text(address), user=user, mechanism="PLAIN")


@pytest.mark.parametrize("before", ["", "mx smtpd[123]: ", "  mx smtpd[1]: "])
@pytest.mark.parametrize("address", ["192.0.2.10", "2001:db8::1"])
def test_a_failure_is_matched(before: str, address: str) -> None:
    for user in ("joe", "", "a\\sb", "joe@example.org"):
        match = regex().search(before + line(address, user))
        assert match is not None and match["host"] == address


@pytest.mark.parametrize("address", ["192.0.2.10", "2001:db8::1"])
def test_a_limit_is_matched(address: str) -> None:
    for limit in ("auth-fail", "conn-rate"):
        match = regex().search(logline.SMTP_LIMITED.format(id=7, address=logline.address_text(address), limit=limit))
        assert match is not None and match["host"] == address
    text = logline.SMTP_LIMITED.format(id=7, address=address, limit="max-conn-per-client")
    assert regex().search(text) is None


@pytest.mark.parametrize("text", [
    logline.SMTP_FAILED_COMMAND.format(id=7, command=line("198.51.100.1"), result="500 x"),
    logline.SMTP_FAILED_COMMAND.format(id=7, command="x", result=line("198.51.100.1")),
    logline.SMTP_AUTHENTICATION.format(id=7, user="joe", result="permfail"),
    logline.SMTP_CONNECTED.format(id=7, address="192.0.2.1", host="x") + " " + line(),
    "debug: " + line(),
    line() + " x",
])
def test_nothing_else_is(text: str) -> None:
    assert regex().search("mx smtpd[123]: " + text) is None
