"""What ``protocols`` means."""

import pytest

from pysmtpd.base.tls_versions import ALL, DEFAULT, Version, parse_versions


@pytest.mark.parametrize(("text", "versions"), [
    ("", DEFAULT), ("secure", DEFAULT), ("default", DEFAULT), ("all", ALL), ("legacy", ALL), ("tlsv1", ALL),
    ("TLSv1.3", {Version.TLS1_3}), ("tlsv1.2,tlsv1.3", DEFAULT), ("tlsv1.2:tlsv1.3", DEFAULT),
    ("tlsv1.2, tlsv1.3", DEFAULT), ("!tlsv1.0,!tlsv1.1", DEFAULT), ("all,!tlsv1.3", ALL - {Version.TLS1_3}),
    ("tlsv1.2,!tlsv1.2,tlsv1.3", {Version.TLS1_3}),
])
def test_words(text: str, versions: set[Version]) -> None:
    assert parse_versions(text) == versions


@pytest.mark.parametrize("text", ["sslv3", "tlsv1.4", "tlsv1.2,", ",", "!", "tlsv1.2;tlsv1.3", "tlsv1.3,!tlsv1.3"])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(ValueError, match="TLS protocol"):
        parse_versions(text)
