"""The filter for fail2ban matches the line of a failed AUTH, and nothing a stranger can put into other lines."""

import configparser
import re
from pathlib import Path

import pytest

from pysmtpd.base import logline

FILTER = Path(__file__).parent.parent / "etc/fail2ban/pysmtpd.conf"


def regex() -> re.Pattern[str]:
    """As fail2ban makes it: HOST is an address or a name."""
    parser = configparser.RawConfigParser()
    parser.read(FILTER)
    return re.compile(parser["Definition"]["failregex"].replace("<HOST>", r"(?P<host>[0-9a-fA-F:.]+|[\w.-]+)"))


def line(address: str = "192.0.2.10", user: str = "joe") -> str:
    return logline.SMTP_AUTH_FAILED.format(id=7, address=logline.address_text(address), user=user, mechanism="PLAIN")


@pytest.mark.parametrize("before", ["", "mx smtpd[123]: ", "  mx smtpd[1]: "])
@pytest.mark.parametrize("address", ["192.0.2.10", "2001:db8::1"])
def test_a_failure_is_matched(before: str, address: str) -> None:
    for user in ("joe", "", "a\\sb", "joe@example.org"):
        match = regex().search(before + line(address, user))
        assert match is not None and match["host"] == address


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
