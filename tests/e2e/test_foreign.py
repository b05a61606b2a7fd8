"""Among the servers that others run: Postfix, Exim and OpenSMTPD as our next hop, and as our client.

In each exchange a report comes back, so that both sides are client and server: DSN, SMTPUTF8, 8BITMIME, PIPELINING, and
with Exim CHUNKING in our direction.
"""

import contextlib
import email
import email.policy
import os
import pwd
import smtplib
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.conftest import Start
from tests.support import mail
from tests.support.confined import Exim, OpenSmtpd
from tests.support.daemon import Daemon, free_port, until
from tests.support.postfix import Postfix

pytestmark = pytest.mark.root

EXIM = """\
dsn_advertise_hosts = *
smtputf8_advertise_hosts = *
chunking_advertise_hosts = *
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
begin acl
rcpt:
  deny local_parts = gone
       message = 5.1.1 nobody of that name
  accept
begin routers
here:
  driver = accept
  domains = there.example
  transport = box
out:
  driver = manualroute
  route_list = * 127.0.0.1
  self = send
  transport = smtp
begin transports
box:
  driver = appendfile
  file = {box}/mbox
  user = nobody
  group = nogroup
smtp:
  driver = smtp
  port = {back}
begin retry
* * F,1h,2s
"""
OPENSMTPD = """\
table there {{ "@" = "nobody" }}
listen on 127.0.0.1 port {port}
action "in" maildir "{box}/mail" virtual <there>
action "out" relay host smtp+notls://127.0.0.1:{back}
match from any for domain "there.example" action "in"
match from any for any action "out"
"""
OURS = """\
table here {{ "@" = "nobody" }}
table team {{ "team@here.example" = "one@here.example, two@there.example", "@" = "nobody" }}
listen on 127.0.0.1 port {port}
action "in" maildir "{box}/mail" virtual <here>
action "lists" maildir "{box}/mail" virtual <team>
action "out" relay host smtp://127.0.0.1:{there}
match from any for rcpt-to "team@here.example" action "lists"
match from any for domain "here.example" action "in"
match from any for any action "out"
"""
TEXT = ("Subject: gr\u00fc\u00df\r\nFrom: <j\u00fcrgen@here.example>\r\nX-Test: {name}\r\n"
        "\r\n.\r\n8 bit: \u00e4\r\n" + "y" * 900)


class There(NamedTuple):
    """Another server, whose domain is there.example, and which sends us all else."""

    name: str
    port: int
    box: Path
    log: Callable[[], str]

    def messages(self) -> list[bytes]:
        mbox = self.box / "mbox"
        return mail.maildir(self.box / "mail") + (mbox.read_bytes().split(b"\nFrom ") if mbox.exists() else [])


@pytest.fixture
def user() -> str:
    return ""


@pytest.fixture
def there(request: pytest.FixtureRequest, where: Path, port: int) -> Iterator[There]:
    entry = pwd.getpwnam("nobody")
    box = where / "there-box"
    box.mkdir(mode=0o700)
    os.chown(box, entry.pw_uid, entry.pw_gid)
    name, mine = request.param, free_port()
    with contextlib.ExitStack() as stack:
        if name == "postfix":
            postfix = stack.enter_context(Postfix(where / "there", mine, {
                "virtual_mailbox_domains": "there.example", "virtual_mailbox_base": str(box),
                "virtual_mailbox_maps": "static:mail/", "virtual_uid_maps": f"static:{entry.pw_uid}",
                "virtual_gid_maps": f"static:{entry.pw_gid}", "relayhost": f"[127.0.0.1]:{port}",
                "smtputf8_enable": "yes", "minimal_backoff_time": "2s", "queue_run_delay": "2s"}))
            yield There(name, mine, box, lambda: postfix.log.read_text(encoding="utf-8"))
        else:
            config = EXIM if name == "exim" else OPENSMTPD
            kind = Exim if name == "exim" else OpenSmtpd
            server = kind(where / "there", mine, config.format(box=box, back=port, port=mine))
            stack.enter_context(server)
            yield There(name, mine, box, lambda: server.log)


@pytest.fixture
def ours(there: There, start: Start, port: int, box: Path) -> Daemon:
    return start(OURS.format(port=port, box=box, there=there.port))


def submit(port: int, name: str, sender: str, rcpt: str, *, utf8: bool, notify: str = "SUCCESS,FAILURE",
           orcpt: str = "") -> None:
    """A message with something beyond ASCII in its header, or only in its text."""
    text = TEXT.format(name=name)
    if not utf8:
        text = text.replace("gr\u00fc\u00df", "green").replace("j\u00fcrgen", "joe")
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
        client.command_encoding = "utf-8"
        client.ehlo("client.example")
        wishes = ["RET=HDRS", "ENVID=QQ+2B314", "BODY=8BITMIME"]
        code, said = client.mail(sender, [*(["SMTPUTF8"] if utf8 else []), *wishes])
        assert code == 250, said
        code, said = client.rcpt(rcpt, [f"NOTIFY={notify}", *([f"ORCPT={orcpt}"] if orcpt else [])])
        assert code == 250, said
        code, said = client.data(text.encode())
        assert code == 250, said


def report(messages: Callable[[], list[bytes]], action: str, there: There) -> tuple[str, EmailMessage]:
    """The report that says so, once it is there."""
    def find() -> list[bytes]:
        return [one for one in messages() if f"\nAction: {action}".encode() in one.replace(b"\r", b"")]

    try:
        [found] = until(find, f"a report: {action}", 30)
    except AssertionError:
        print(there.log())
        raise
    text = found.decode("utf-8", "replace").replace("\r\n", "\n")
    return text, email.message_from_bytes(found, policy=email.policy.default)


@pytest.mark.parametrize("there", ["postfix", "exim"], indirect=True)
def test_internationalized_mail_there_and_its_report_back(there: There, ours: Daemon, port: int, box: Path) -> None:
    """Our client speaks SMTPUTF8 and DSN; theirs brings what became of it."""
    submit(port, "utf8", "j\u00fcrgen@here.example", "\u7528\u6237@there.example", utf8=True,
           orcpt="utf-8;\u7528+2Bx@there.example")
    until(lambda: mail.names_in(there.messages())["utf8"], "the message there", 30)
    message = next(one for one in there.messages() if b"X-Test: utf8" in one).replace(b"\r\n", b"\n")
    assert "Subject: gr\u00fc\u00df\n".encode() in message
    assert message.partition(b"\n\n")[2].rstrip() == TEXT.partition("\r\n\r\n")[2].replace("\r\n", "\n").encode()
    text, _ = report(lambda: mail.maildir(box / "mail"), "delivered", there)
    assert "original-envelope-id: qq" in text.lower()      # Exim spells it so, and does not decode it
    ours.until_logged(r'mta delivery .*from=<j\u00fcrgen@here\.example> to=<\u7528\u6237@there\.example> .*result="Ok"')
    ours.until_logged(r"smtp message msgid=\w+ size=\d+ nrcpt=1 proto=")


@pytest.mark.parametrize("there", ["postfix", "exim", "opensmtpd"], indirect=True)
def test_mail_from_there_and_our_report_back(there: There, ours: Daemon, port: int, box: Path) -> None:
    """Their client asks for news of success, which is ours to give; RET and ENVID came with it."""
    submit(there.port, "here", "joe@there.example", "ann@here.example", utf8=False,
           orcpt="rfc822;first+2Bx@else.example")
    until(lambda: mail.names_in(mail.maildir(box / "mail"))["here"], "the message here", 30)
    [message] = mail.maildir(box / "mail")
    if there.name == "exim":
        until(lambda: " K C=" in there.log(), "that it came in chunks")
    assert message.replace(b"\r\n", b"\n").endswith(("8 bit: \u00e4\n" + "y" * 900 + "\n").encode())
    text, _ = report(there.messages, "delivered", there)
    assert "Original-Recipient: rfc822; first+x@else.example\n" in text
    assert "Final-Recipient: rfc822; ann@here.example\n" in text
    assert "Original-Envelope-Id: QQ+314\n" in text


@pytest.mark.parametrize("there", ["opensmtpd"], indirect=True)
def test_a_server_without_smtputf8_gets_what_needs_none(there: There, ours: Daemon, port: int, box: Path) -> None:
    """An internationalized domain is ASCII for it; a local part is not, and comes back with 5.6.7."""
    submit(port, "utf8", "j\u00fcrgen@here.example", "ann@there.example", utf8=True, notify="FAILURE")
    text, message = report(lambda: mail.maildir(box / "mail"), "failed", there)
    assert "Status: 5.6.7" in text
    assert [part.get_content_type() for part in message.iter_parts()][2] == "message/global-headers"
    submit(port, "ascii", "joe@here.example", "ann@there.example", utf8=False, notify="FAILURE")
    until(lambda: mail.names_in(there.messages())["ascii"], "the message there", 30)


@pytest.mark.parametrize("there", ["exim"], indirect=True)
def test_our_report_names_the_server_that_refused(there: There, ours: Daemon, port: int, box: Path) -> None:
    submit(port, "gone", "joe@here.example", "gone@there.example", utf8=False, notify="FAILURE")
    text, _ = report(lambda: mail.maildir(box / "mail"), "failed", there)
    assert "Remote-MTA: dns; [127.0.0.1]\n" in text and "Status: 5.1.1\n" in text
    assert "Diagnostic-Code: smtp; 550 5.1.1 nobody of that name\n" in text


@pytest.mark.parametrize("there", ["postfix"], indirect=True)
def test_an_alias_of_several_is_expanded_and_the_rest_is_asked_of_them(
        there: There, ours: Daemon, port: int, box: Path) -> None:
    submit(port, "team", "joe@here.example", "team@here.example", utf8=False)
    until(lambda: mail.names_in(there.messages())["team"], "the message there", 30)
    text, _ = report(lambda: mail.maildir(box / "mail"), "expanded", there)
    assert "Final-Recipient: rfc822; team@here.example" in text
    assert "Action: delivered" not in b"".join(mail.maildir(box / "mail")).decode()
