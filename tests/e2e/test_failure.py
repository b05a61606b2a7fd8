"""What does not arrive: retried, or returned to its sender as a report that programs can read."""

import email
import email.message
import email.policy
import smtplib
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Start
from tests.support import mail
from tests.support.daemon import Daemon, until
from tests.support.sink import Received, Sink

CONFIG = """\
listen on 127.0.0.1 port {port}
action "out" relay host {url}
match from any for any action "out"
"""


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as server:
        yield server


@pytest.fixture
def daemon(start: Start, port: int, sink: Sink) -> Daemon:
    return start(CONFIG.format(port=port, url=sink.url))


def gone(line: str) -> str:
    return "550 5.1.1 <gone@far.example>: no such user here" if "gone@" in line else ""


def bounce(sink: Sink) -> Received:
    until(lambda: [one for one in sink.messages if not one.sender], "a bounce", 20)
    return next(one for one in sink.messages if not one.sender)


def test_a_permanent_failure_is_reported(daemon: Daemon, sink: Sink, port: int) -> None:
    sink.replies["RCPT"] = gone
    mail.send(port, "gone@far.example", "original", sender="author@home.example")
    report = bounce(sink)
    assert report.rcpts == ["author@home.example"]
    whole = email.message_from_bytes(report.data, policy=email.policy.default)
    assert whole.get_content_type() == "multipart/report"
    assert whole["To"] and "author@home.example" in whole["To"]
    assert whole["Auto-Submitted"] == "auto-replied"
    text, status, original = whole.iter_parts()
    assert "gone@far.example" in text.get_content()
    assert status.get_content_type() == "message/delivery-status"
    fields = "\n".join(str(part) for part in status.get_payload()).lower()
    for needed in ("reporting-mta: dns;", "arrival-date: ", "final-recipient: rfc822;", "action: failed",
                   "status: 5.1.1", "diagnostic-code: smtp;"):
        assert needed in fields
    assert original.get_content_type() in ("message/rfc822", "text/rfc822-headers")
    assert b"Subject: original" in report.data
    daemon.until_logged(r'mta delivery .*to=<gone@far.example> .*result="PermFail" stat="550 5\.1\.1 ')


def test_one_of_two_recipients_fails(daemon: Daemon, sink: Sink, port: int) -> None:
    sink.replies["RCPT"] = gone
    mail.send(port, ["gone@far.example", "here@far.example"], "half", sender="author@home.example")
    bounce(sink)
    until(lambda: any("here@far.example" in one.rcpts for one in sink.messages), "the other recipient")
    assert not any("gone@far.example" in one.rcpts for one in sink.messages if one.sender)


def test_a_failure_of_a_bounce_is_dropped_and_logged(daemon: Daemon, sink: Sink, port: int) -> None:
    sink.replies["RCPT"] = gone
    mail.send(port, "gone@far.example", "double", sender="")
    daemon.until_logged(r"(double bounce|no return path)!")
    until(lambda: b"\n" not in daemon.smtpctl("show", "queue").stdout.strip() and
          not daemon.smtpctl("show", "queue").stdout.strip(), "an empty queue")


def test_a_temporary_failure_is_kept(daemon: Daemon, sink: Sink, port: int) -> None:
    sink.replies["RCPT"] = lambda line: "451 4.7.1 come back later"
    mail.send(port, "later@far.example", "later")
    daemon.until_logged(r'mta delivery .*to=<later@far.example> .*result="TempFail" stat="451 4\.7\.1 come back later"')

    def kept() -> str:
        listing = daemon.smtpctl("show", "queue").stdout.decode()
        # The log has the result before the spool has.
        return listing if "451 4.7.1 come back later" in listing else ""

    listing = until(kept, "the reason in the queue")
    evpid = listing.split("|")[0]
    assert "|later@far.example|" in listing
    # Tried again as soon as somebody asks for it.
    del sink.replies["RCPT"]
    daemon.smtpctl("schedule", evpid)
    until(lambda: mail.names_in(one.data for one in sink.messages)["later"], "the message")


def test_a_host_that_is_away_is_tried_again_after_a_restart(start: Start, port: int) -> None:
    from tests.support.daemon import free_port

    away = free_port()
    daemon = start(CONFIG.format(port=port, url=f"smtp://127.0.0.1:{away}"))
    mail.send(port, "x@far.example", "patient")
    daemon.until_logged(r'mta delivery .*result="TempFail"')
    assert daemon.stop() == 0
    with Sink(port=away) as sink:
        daemon.start()
        daemon.smtpctl("schedule", "all")
        until(lambda: mail.names_in(one.data for one in sink.messages)["patient"], "the message")


def test_a_message_that_is_too_large_is_refused(start: Start, port: int, sink: Sink) -> None:
    start("smtp max-message-size 10K\n" + CONFIG.format(port=port, url=sink.url))
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
        with pytest.raises(smtplib.SMTPSenderRefused) as caught:
            client.sendmail("a@b.example", ["c@d.example"], mail.letter("big", 20000))
        assert caught.value.smtp_code == 552


def test_a_message_expires(start: Start, port: int, sink: Sink) -> None:
    """After its ttl it goes back to the sender: 5.4.7."""
    def later(line: str) -> str:
        return "451 4.7.1 later" if "late@" in line else ""

    sink.replies["RCPT"] = later
    daemon = start("queue ttl 3s\n" + CONFIG.format(port=port, url=sink.url))
    mail.send(port, "late@far.example", "expired", sender="author@home.example")
    report = bounce(sink)
    assert b"Status: 5.4.7" in report.data
    daemon.until_logged(r"Expire for \w{16}: from=<author@home.example>, to=<late@far.example>.*stat=Envelope expired")
