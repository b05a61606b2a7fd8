"""Parameters of MAIL and RCPT."""

import pytest

from pysmtpd.base.envelope import Notify, Ret
from pysmtpd.conf.config import LEFT_OUT
from pysmtpd.session.extensions import EXTENSIONS
from pysmtpd.session.parameters import MAIL, RCPT, Parameters, read_mail, read_rcpt


def mail(text: str) -> Parameters:
    found = read_mail(text, frozenset(), max_size=1000)
    assert isinstance(found, Parameters), found
    return found


def rcpt(text: str) -> Parameters:
    found = read_rcpt(text, frozenset())
    assert isinstance(found, Parameters), found
    return found


def test_mail() -> None:
    found = mail("SIZE=1000 body=8BITMIME  ret=full ENVID=a+2Bb AUTH=<>")
    assert (found.size, found.body_8bit, found.ret, found.envid) == (1000, True, Ret.FULL, "a+2Bb")
    assert mail("BODY=7BIT").body_8bit is False
    assert (mail("").ret, mail("").envid) == (Ret.NONE, "")


def test_rcpt() -> None:
    assert rcpt("NOTIFY=DELAY,failure").notify == Notify.DELAY | Notify.FAILURE
    assert rcpt("NOTIFY=NEVER").notify == Notify.NEVER
    assert rcpt("ORCPT=rfc822;a+40b").orcpt == "rfc822;a+40b"
    assert (rcpt("").notify, rcpt("").orcpt) == (0, "")


def test_orcpt_beyond_ascii_is_kept_in_ascii() -> None:
    found = read_rcpt("ORCPT=utf-8;\u7528+2B\U0001f600@b", frozenset(), smtputf8=True)
    assert isinstance(found, Parameters) and found.orcpt == "utf-8;\\x{7528}+2B\\x{1F600}@b"
    for text, smtputf8 in (("ORCPT=utf-8;\u7528", False), ("ORCPT=rfc822;\u7528", True), ("ORCPT=utf-8;\u202e", True)):
        assert isinstance(read_rcpt(text, frozenset(), smtputf8=smtputf8), str)


@pytest.mark.parametrize("text, code", [
    ("SIZE", 501), ("SIZE=", 501), ("SIZE=-1", 501), ("SIZE=1e3", 501), ("SIZE=" + "1" * 21, 501), ("SIZE=1001", 552),
    ("BODY", 503), ("BODY=BINARY", 503), ("AUTH=", 501), ("AUTH=a+4", 501), ("RET", 501), ("RET=NONE", 501),
    ("ENVID=", 501), ("ENVID=+zz", 501), ("ENVID=" + "a" * 101, 503), ("FOO", 503), ("=", 503), ("=1", 503),
    ("SIZE=1 SIZE=1", 501), ("NOTIFY=NEVER", 503), ("RET=FULL\xa0X=1", 501), ("\xe9", 503),
])
def test_mail_refused(text: str, code: int) -> None:
    refused = read_mail(text, frozenset(), max_size=1000)
    assert isinstance(refused, str)
    assert int(refused[:3]) == code
    assert refused.isascii()


@pytest.mark.parametrize("text, code", [
    ("NOTIFY=", 501), ("NOTIFY", 501), ("NOTIFY=NEVER,DELAY", 553), ("NOTIFY=DELAY,", 501),
    ("NOTIFY=DELAY NOTIFY=DELAY", 501),
    ("ORCPT=a@b", 553), ("ORCPT=rfc822;a b", 503), ("ORCPT=rfc822;a=b", 553), ("ORCPT=;a", 553),
    ("ORCPT=x;" + "a" * 499, 553),
    ("ORCPT=rfc822;\xe9", 553), ("SIZE=1", 503),
])
def test_rcpt_refused(text: str, code: int) -> None:
    refused = read_rcpt(text, frozenset())
    assert isinstance(refused, str)
    if text == "ORCPT=rfc822;a b":
        assert refused == "503 Unsupported option b"
    assert int(refused[:3]) == code


def test_without_dsn() -> None:
    for text in ("RET=FULL", "ENVID=a"):
        assert isinstance(read_mail(text, frozenset({"DSN"}), max_size=1000), str)
    for text in ("NOTIFY=NEVER", "ORCPT=rfc822;a"):
        assert isinstance(read_rcpt(text, frozenset({"DSN"})), str)


def test_what_a_listener_may_leave_out_is_what_ehlo_offers() -> None:
    offered = {row.keyword for row in EXTENSIONS}
    assert {word.upper() for word in LEFT_OUT} | {"DSN", "STARTTLS", "AUTH", "XCLIENT", "XFORWARD"} == offered
    assert {row.keyword for row in (*MAIL.values(), *RCPT.values()) if row.keyword} <= offered
