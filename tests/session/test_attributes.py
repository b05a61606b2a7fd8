"""Attributes of XCLIENT and XFORWARD, as Postfix's README files describe them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysmtpd.base.text import is_clean
from pysmtpd.session.attributes import XCLIENT, XFORWARD, Reader, read


@pytest.mark.parametrize("argument, expected", [
    ("NAME=mail.example.com", {"NAME": "mail.example.com"}),
    ("name=x Addr=192.0.2.1", {"NAME": "x", "ADDR": "192.0.2.1"}),
    ("NAME=[UNAVAILABLE]", {"NAME": ""}), ("NAME=[unavailable]", {"NAME": ""}), ("NAME=[TempUnavail]", {"NAME": ""}),
    ("ADDR=IPV6:2001:DB8::1", {"ADDR": "2001:db8::1"}), ("ADDR=ipv6:::1", {"ADDR": "::1"}),
    ("ADDR=IPV6:::ffff:192.0.2.1", {"ADDR": "192.0.2.1"}),
    ("PORT=0", {"PORT": "0"}), ("PORT=65535", {"PORT": "65535"}), ("PORT=[UNAVAILABLE]", {"PORT": ""}),
    ("PROTO=esmtp", {"PROTO": "ESMTP"}), ("PROTO=SMTP", {"PROTO": "SMTP"}),
    ("HELO=a+2Eb", {"HELO": "a.b"}), ("HELO=[192.0.2.1]", {"HELO": "[192.0.2.1]"}),
    ("LOGIN=joe+40example.org", {"LOGIN": "joe@example.org"}), ("LOGIN=j+C3+BCrgen", {"LOGIN": "j\u00fcrgen"}),
    ("LOGIN=a=b", {"LOGIN": "a=b"}),       # the form before Postfix 2.3 was not encoded
    ("DESTADDR=192.0.2.2 DESTPORT=587", {"DESTADDR": "192.0.2.2", "DESTPORT": "587"}),
    ("NAME=x NAME=y", {"NAME": "y"}),
])
def test_xclient(argument: str, expected: dict[str, str]) -> None:
    assert read(argument, XCLIENT) == expected


@pytest.mark.parametrize("argument", [
    "", " ", "NAME", "=x", "NAME=", "NAME=-x", "NAME=a b", "NAME=" + "x" * 256, "COLOUR=red", "IDENT=x",
    "ADDR=[192.0.2.1]", "ADDR=2001:db8::1", "ADDR=IPV6:192.0.2.1", "ADDR=IPV6:fe80::1%eth0", "ADDR=192.0.2.256",
    "ADDR=local", "ADDR=IPV6:", "PORT=65536", "PORT=-1", "PORT=x", "PORT=", "PROTO=LMTP", "LOGIN=a+20b", "LOGIN=a+0Ab",
    "LOGIN=+FF", "LOGIN=a+", "LOGIN=a+4", "LOGIN=a+zz", "LOGIN=\u00fc", "LOGIN=\udcff", "DESTADDR=x", "DESTPORT=70000",
])
def test_what_is_wrong(argument: str) -> None:
    with pytest.raises(ValueError):
        read(argument, XCLIENT)


@pytest.mark.parametrize("argument, expected", [
    ("NAME=spike.porcupine.org ADDR=168.100.189.2 PROTO=ESMTP",
     {"NAME": "spike.porcupine.org", "ADDR": "168.100.189.2", "PROTO": "ESMTP"}),
    ("NAME=not_a_name! ADDR=/dev/uucp PROTO=UUCP", {"NAME": "not_a_name!", "ADDR": "/dev/uucp", "PROTO": "UUCP"}),
    ("IDENT=3CF6B2AAE8 SOURCE=local PORT=25", {"IDENT": "3CF6B2AAE8", "SOURCE": "LOCAL", "PORT": "25"}),
    ("SOURCE=[UNAVAILABLE]", {"SOURCE": ""}),
])
def test_xforward(argument: str, expected: dict[str, str]) -> None:
    assert read(argument, XFORWARD) == expected


@pytest.mark.parametrize("argument", [
    "LOGIN=joe", "DESTADDR=192.0.2.1", "SOURCE=NEAR", "NAME=a+20b", "NAME=a+22b", "HELO=a+0D+0Ab", "IDENT=<x>",
    "IDENT=a(b)", "HELO=a;b", "NAME=a,b", "PROTO=" + "x" * 65, "NAME=" + "x" * 256, "NAME=+C3+BC",
])
def test_what_may_not_stand_in_a_header_is_refused(argument: str) -> None:
    with pytest.raises(ValueError):
        read(argument, XFORWARD)


@given(st.sampled_from([XCLIENT, XFORWARD]), st.lists(st.tuples(st.sampled_from(sorted(XCLIENT | XFORWARD)), st.one_of(
    st.text(max_size=20), st.from_regex(r"(\+[0-9A-F]{2}|[ -~]){0,10}", fullmatch=True)))))
def test_whatever_is_read_is_clean(known: dict[str, Reader], said: list[tuple[str, str]]) -> None:
    try:
        found = read(" ".join(f"{name}={value}" for name, value in said), known)
    except ValueError:
        return
    assert all(is_clean(value) and " " not in value and len(value.encode()) <= 255 for value in found.values())
