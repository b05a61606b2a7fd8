"""The language of smtpd.conf before 6.4: a daemon runs by it, and by what it is migrated to."""

import pwd
import smtplib
import ssl
from pathlib import Path

import pytest
import trustme

from tests.conf.test_classic import HERE as FILES
from tests.conf.test_classic import migrated
from tests.e2e.conftest import Start
from tests.support import certificates, mail
from tests.support.daemon import Daemon, until
from tests.support.sink import Sink

RULES = """
listen on 127.0.0.1 port {port} mask-source
table far {{ far.example }}
accept from any for local deliver to maildir "{box}/%{{user.username}}" # by the local part
accept from any for domain <far> relay via smtp://127.0.0.1:{sink}
accept from any for domain "tls.example" relay via tls://127.0.0.1:{tls}
accept from any for domain "verified.example" relay via "tls://127.0.0.1:{tls}" verify
reject from any for any
"""


@pytest.fixture(params=["as written", "migrated"])
def is_migrated(request: pytest.FixtureRequest) -> bool:
    return str(request.param) == "migrated"


def test_the_configuration_of_the_mission_is_ok(where: Path, user: str, is_migrated: bool) -> None:
    """With its files in another place; 192.0.2.4 need not be an address of this machine."""
    pem = certificates.pem_of(trustme.CA(), "example.com")
    certificates.write_pair(where, pem)
    for name, text in {"aliases": "root: joe\n", "domains": "example.com\n", "virtuals": "a@example.com joe\n",
                       "authinfo": "example joe:secret\n"}.items():
        (where / name).write_text(text)
    text = (FILES / "30-mission.conf").read_text().replace("/etc/mail/", f"{where}/")
    text = text.replace("/etc/letsencrypt/example.com/privkey.pem", f"{where}/key.pem")
    text = text.replace("/etc/letsencrypt/example.com/fullchain.pem", f"{where}/cert.pem")
    daemon = Daemon(migrated(text) if is_migrated else text, user=user, where=where)
    done = daemon.run("-n", "-f", str(daemon.config))
    said = f"{done.stdout}{done.stderr}"
    assert (done.returncode, "configuration OK" in said) == (0, True), said


def test_a_daemon_runs_by_it(
        start: Start, where: Path, port: int, recipient: pwd.struct_passwd, box: Path, is_migrated: bool) -> None:
    certificates.write_pair(where, certificates.pem_of(trustme.CA(), "127.0.0.1"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(where / "cert.pem", where / "key.pem")
    with Sink(tls=context) as sink, Sink(tls=context) as tls:
        text = RULES.format(port=port, box=box, sink=sink.port, tls=tls.port)
        daemon = start(migrated(text) if is_migrated else text)
        mail.send(port, f"{recipient.pw_name}@localhost", "local")
        mail.send(port, "x@far.example", "plain")
        mail.send(port, "x@tls.example", "tls")
        until(lambda: mail.names_in(mail.maildir(box / recipient.pw_name))["local"], "the local one")
        until(lambda: sink.messages and tls.messages, "those that were relayed")
        # Only now: its failure rests the route that the others go by.
        mail.send(port, "x@verified.example", "verified")
        daemon.until_logged(r"mta delivery .*to=<x@verified.example>.*result=\"TempFail\"")
    assert not sink.messages[0].tls, "smtp:// never spoke TLS"
    assert [one.rcpts for one in tls.messages] == [["x@tls.example"]], "without verify nothing was checked"
    assert tls.messages[0].tls
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        mail.send(port, "x@other.example", "refused")
