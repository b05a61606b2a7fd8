"""Times, sizes and names."""

import pytest

from pysmtpd.conf.values import delay, host_name, size


@pytest.mark.parametrize(("text", "seconds"), [
    ("1s", 1), ("90s", 90), ("2m", 120), ("3h", 10800), ("4d", 345600), ("24855d", 2147472000), ("007s", 7),
])
def test_delay(text: str, seconds: int) -> None:
    assert delay(text) == seconds


@pytest.mark.parametrize("text", [
    "", "4", "d", "0s", "-1s", "1w", "1 d", "1d ", "1D", "1d1h", "24856d", "9" * 30 + "s",
])
def test_no_delay(text: str) -> None:
    with pytest.raises(ValueError):
        delay(text)


@pytest.mark.parametrize(("text", "octets"), [
    ("0", 0), ("10", 10), ("10B", 10), ("1k", 1024), ("35M", 36700160), ("1.5G", 1610612736), ("1.K", 1024),
    ("2t", 1 << 41), ("1P", 1 << 50), ("7E", 7 << 60), ("0.5", 0),
])
def test_size(text: str, octets: int) -> None:
    assert size(text) == octets


@pytest.mark.parametrize("text", ["", "M", "-1", "1MB", "1 M", "8E", ".", ".M", "+", "1.5.5M", "x", "9" * 20])
def test_no_size(text: str) -> None:
    with pytest.raises(ValueError):
        size(text)


def test_host_name() -> None:
    assert host_name("Mail.Example.ORG") == "mail.example.org"
    assert host_name("a_b.example") == "a_b.example"
    for text in ("", ".", "a..b", "-a.b", "a-.b", "a b", "é.example", "*.example.org", "a." * 200, "[::1]"):
        with pytest.raises(ValueError):
            host_name(text)
