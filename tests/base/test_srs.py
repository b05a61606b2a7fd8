"""SRS: what OpenSMTPD 7.8 gives out (the vectors were printed by it), and nothing forged or old taken back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysmtpd.base.mailaddr import NULL, MailAddr, parse
from pysmtpd.base.srs import DAY, Srs, is_rewritten

NOW = 1_700_000_000
SRS = Srs("thekey")
FIRST = "SRS0=pQur=G3=example.org=joe@relay.example"
SECOND = "SRS1=2sSA=relay.example==pQur=G3=example.org=joe@second.example"
THIRD = "SRS1=E63X=relay.example==pQur=G3=example.org=joe@third.example"


@pytest.mark.parametrize("sender, domain, wanted", [
    ("joe@example.org", "relay.example", FIRST),
    (FIRST, "second.example", SECOND),
    (SECOND, "third.example", THIRD),
    ("srs0=abcd=XX=a.b=c@d.e", "relay.example", "SRS1=CpwV=d.e==abcd=XX=a.b=c@relay.example"),
    ("SRS1+abc@d.e", "relay.example", "SRS0=QEaA=G3=d.e=SRS1+abc@relay.example"),
    ("a=b@c.d", "R.example", "SRS0=KNfO=G3=c.d=a=b@R.example"),
])
def test_what_opensmtpd_gives_out(sender: str, domain: str, wanted: str) -> None:
    assert str(SRS.encode(parse(sender), domain, NOW)) == wanted


@pytest.mark.parametrize("rcpt, wanted", [
    (FIRST, "joe@example.org"), (SECOND, FIRST), (THIRD, FIRST),
    ("SRS0=KNfO=G3=c.d=a=b@R.example", "a=b@c.d"), ("srs0" + FIRST[4:], "joe@example.org"),
])
def test_what_opensmtpd_takes_back(rcpt: str, wanted: str) -> None:
    assert str(SRS.decode(parse(rcpt), NOW)) == wanted


@pytest.mark.parametrize("days, taken", [(-2, False), (-1, True), (0, True), (1, True), (4, True), (5, False),
                                         (600, False), (1024, True)])
def test_how_long_it_is_taken_back(days: int, taken: bool) -> None:
    assert (SRS.decode(parse(FIRST), NOW + days * DAY) is not None) is taken
    assert (SRS.decode(parse(SECOND), NOW + days * DAY) is not None) is taken
    # The stamp is the first hop's, whatever was made of it later.
    later = SRS.encode(parse(FIRST), "second.example", NOW + 3 * DAY)
    assert (SRS.decode(later, NOW + 5 * DAY) is None)


def test_days_begin_anew() -> None:
    for start in (0, 1, 3, 1020, 1023):
        rewritten = SRS.encode(MailAddr("a", "b.example"), "c.example", start * DAY)
        assert SRS.decode(rewritten, (start + 4) * DAY) == MailAddr("a", "b.example")
        assert SRS.decode(rewritten, (start + 5) * DAY) is None


def test_the_backup_key_takes_back_and_gives_out_nothing() -> None:
    new = Srs("new", "thekey")
    assert str(new.decode(parse(FIRST), NOW)) == "joe@example.org"
    assert new.encode(MailAddr("joe", "example.org"), "relay.example", NOW) \
        == Srs("new").encode(MailAddr("joe", "example.org"), "relay.example", NOW) != parse(FIRST)
    assert Srs("new", "other").decode(parse(FIRST), NOW) is None


@pytest.mark.parametrize("text", [FIRST, SECOND])
def test_no_changed_character_is_taken_back(text: str) -> None:
    for at in range(5, len(text)):
        if text[at] == "=" and at == 9:
            continue               # the mark behind the hash may be = + or -, and is not hashed
        changed = text[:at] + ("x" if text[at] != "x" else "y") + text[at + 1 :]
        assert SRS.decode(parse(changed), NOW) is None, changed


@pytest.mark.parametrize("sender", [NULL, MailAddr("joe", ""), MailAddr("SRS1=a", "d.e"), MailAddr("SRS1=abcdx", "d.e"),
                                    MailAddr("j" * 240, "example.org")])
def test_what_cannot_be_rewritten_stays(sender: MailAddr) -> None:
    assert SRS.encode(sender, "relay.example", NOW) == sender


@given(st.text(alphabet="SRS01=+-ABGab3.", max_size=40))
def test_any_recipient(user: str) -> None:
    if user:
        assert SRS.decode(MailAddr("SRS0=" + user, "relay.example"), NOW) is None
        assert SRS.decode(MailAddr("SRS1=" + user, "relay.example"), NOW) is None


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60),
       st.integers(0, 3000), st.integers(0, 4))
def test_there_and_back(user: str, day: int, later: int) -> None:
    if not is_rewritten(user):
        sender = MailAddr(user, "example.org")
        there = SRS.encode(sender, "relay.example", day * DAY)
        assert SRS.decode(there, (day + later) * DAY) == sender
        twice = SRS.encode(there, "second.example", (day + later) * DAY)
        assert SRS.decode(twice, (day + later) * DAY) == there
