"""Mail goes out: to a smarthost, by MX, over TLS, to programs that are not ours."""

import os
import pwd
import random
import re
import smtplib
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.e2e.conftest import Start
from tests.support import debian, mail
from tests.support.daemon import Daemon, free_port, until
from tests.support.dns import FakeDns
from tests.support.postfix import Postfix
from tests.support.sink import Sink

RELAY = 'listen on 127.0.0.1 port {port}\naction "out" relay host {url}\nmatch from any for any action "out"\n'


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as server:
        yield server


def arrived(sink: Sink, name: str, timeout: float = 15.0) -> None:
    until(lambda: mail.names_in(one.data for one in sink.messages)[name], f"{name} at the sink", timeout)


def test_to_a_smarthost(start: Start, port: int, sink: Sink) -> None:
    daemon = start(RELAY.format(port=port, url=sink.url))
    mail.send(port, "Rcpt@Far.example", "one", sender="me@here.example")
    arrived(sink, "one")
    message = sink.messages[0]
    assert (message.sender, message.rcpts) == ("me@here.example", ["Rcpt@Far.example"])
    # A system without a hosts file does not know the name.
    assert re.match(rb"Received: from \[127\.0\.0\.1\] \((localhost|<unknown>) \[127\.0\.0\.1\]\)\r\n\tby ",
                    message.data)
    assert message.data.partition(b"\r\n\r\n")[2] == mail.letter("one").partition(b"\r\n\r\n")[2]
    found = daemon.until_logged(
        r'mta delivery evpid=\w{16} from=<me@here.example> to=<Rcpt@Far.example> rcpt=<-> source="127.0.0.1" '
        r'relay="127.0.0.1(?: \(.*\))?" delay=\ds result="Ok" stat="250 2.0.0 kept"')
    assert found


def test_srs_there_and_back(start: Start, port: int, sink: Sink) -> None:
    daemon = start(f"""
srs key "the key"
table fwd {{ "ann@ours.example" = "joe@far.example" }}
listen on 127.0.0.1 port {port}
action "in" maildir "/nonexistent" virtual <fwd>
action "out" relay host {sink.url} srs
match from any for domain "ours.example" action "in"
match from local for any action "out"
""")
    mail.send(port, "ann@ours.example", "there", sender="eve@x.example")
    arrived(sink, "there")
    rewritten = sink.messages[0].sender
    assert re.fullmatch(r"SRS0=[\w-]{4}=[A-Z2-7]{2}=x\.example=eve@ours\.example", rewritten)
    assert sink.messages[0].rcpts == ["joe@far.example"]
    # Nothing was rewritten for who is no forwarder.
    mail.send(port, "joe@far.example", "direct", sender="eve@x.example")
    arrived(sink, "direct")
    assert sink.messages[1].sender == "eve@x.example"
    # The bounce comes, and goes on to whom it is for.
    mail.send(port, rewritten, "back", sender="")
    arrived(sink, "back")
    assert (sink.messages[2].sender, sink.messages[2].rcpts) == ("", ["eve@x.example"])
    forged = rewritten.replace("=eve@", "=all@")
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        mail.send(port, forged, "forged", sender="")
    assert f"SRS failed to decode: {forged}" in daemon.log
    # Our own report goes to the true sender.
    sink.replies["RCPT"] = lambda line: "550 5.1.1 nobody" if "joe@far" in line else ""
    mail.send(port, "ann@ours.example", "bad", sender="eve@x.example")
    reported = ("", ["eve@x.example"])
    until(lambda: any((one.sender, one.rcpts) == reported for one in sink.messages[3:]), "the report", 40)
    assert "the key" not in daemon.log


def test_dots_and_long_lines_pass_unchanged(start: Start, port: int, sink: Sink) -> None:
    start(RELAY.format(port=port, url=sink.url))
    body = b".\r\n..\r\n...x\r\n" + b"y" * 5000 + b"\r\n\r\n.leading\r\n\xc3\xa4\xff\r\n"
    text = b"Subject: dots\r\nX-Test: dots\r\n\r\n" + body
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
        client.sendmail("a@b.example", ["c@d.example"], text, mail_options=["BODY=8BITMIME"])
    arrived(sink, "dots")
    assert sink.messages[0].data.partition(b"\r\n\r\n")[2] == body


def test_a_line_of_five_megabytes_passes_unharmed(start: Start, port: int, sink: Sink) -> None:
    start(RELAY.format(port=port, url=sink.url))
    body = b"." * 5 * 1024 * 1024 + b"\r\n.\r\nend\r\n"
    text = b"From: <a@b.example>\r\nDate: x\r\nMessage-ID: <1@b.example>\r\nX-Test: long\r\nX: " + b"x" * 200_000
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        client.sendmail("a@b.example", ["c@d.example"], text + b"\r\n\r\n" + body)
    arrived(sink, "long", 30)
    [message] = sink.messages
    assert message.data.partition(b"\r\n\tfor ")[2].partition(b"\r\n\t")[2].partition(b"\r\n")[2] == (
        text + b"\r\n\r\n" + body)


def test_one_session_carries_many(start: Start, port: int, sink: Sink) -> None:
    start(RELAY.format(port=port, url=sink.url))
    for at in range(30):
        mail.send(port, "x@far.example", f"many-{at}")
    until(lambda: len(sink.messages) == 30, "30 messages")
    assert sink.sessions <= 10


def test_smtp_sink_of_postfix(start: Start, port: int, where: Path) -> None:
    tool = debian.tool("postfix", "usr/sbin/smtp-sink")
    sink_port = free_port()
    run_as = ["-u", "nobody"] if os.geteuid() == 0 else []
    counters = where / "counters"
    with open(counters, "wb") as file, subprocess.Popen(
            [tool.path, "-c", *run_as, f"127.0.0.1:{sink_port}", "100"], env=dict(tool.env), stdout=file) as process:
        try:
            time.sleep(0.2)
            start(RELAY.format(port=port, url=f"smtp://127.0.0.1:{sink_port}"))
            for at in range(5):
                mail.send(port, "x@far.example", f"sink-{at}")
            until(lambda: b"mesg=5" in counters.read_bytes(), "five messages")
        finally:
            process.terminate()


@pytest.mark.root
def test_a_real_postfix(start: Start, port: int, where: Path) -> None:
    """With opportunistic TLS towards it, into its virtual mailbox."""
    boxes = where / "virtual"
    boxes.mkdir()
    nobody = pwd.getpwnam("nobody")
    os.chown(boxes, nobody.pw_uid, nobody.pw_gid)
    authority = trustme.CA()
    certificate = authority.issue_cert("postfix.example")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(where / "postfix.pem"))
    with Postfix(where / "postfix", free_port(), {
            "virtual_mailbox_domains": "virtual.example", "virtual_mailbox_base": str(boxes),
            "virtual_mailbox_maps": "static:box/", "virtual_uid_maps": f"static:{nobody.pw_uid}",
            "virtual_gid_maps": f"static:{nobody.pw_gid}", "smtpd_tls_security_level": "may",
            "smtpd_tls_chain_files": f"{where}/postfix.pem", "smtpd_tls_loglevel": "1"}) as postfix:
        daemon = start(RELAY.format(port=port, url=f"smtp://127.0.0.1:{postfix.port}"))
        mail.send(port, "user@virtual.example", "to-postfix")
        daemon.until_logged(r'mta delivery .*result="Ok" stat="250 2\.0\.0 Ok: queued as \w+"')
        until(lambda: mail.names_in(mail.maildir(boxes / "box"))["to-postfix"], "the message in Postfix's box")
        assert re.search(r"mta tls ciphers=TLSv1\.3:", daemon.log)
        assert "Anonymous TLS connection established" in postfix.log.read_text(encoding="utf-8")


class TestTls:
    """STARTTLS, in both directions."""

    @pytest.fixture
    def authority(self) -> trustme.CA:
        return trustme.CA()

    @pytest.fixture
    def server(self, authority: trustme.CA) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("sink.example", "localhost").configure_cert(context)
        return context

    def test_opportunistic(self, start: Start, port: int, server: ssl.SSLContext) -> None:
        with Sink(tls=server) as sink:
            daemon = start(RELAY.format(port=port, url=sink.url))
            mail.send(port, "x@far.example", "tls")
            arrived(sink, "tls")
        assert sink.messages[0].tls
        daemon.until_logged(r"^\w{16} mta tls ciphers=TLSv1\.\d:[\w-]+:\d+$")

    def test_not_when_forbidden(self, start: Start, port: int, server: ssl.SSLContext) -> None:
        with Sink(tls=server) as sink:
            start(RELAY.format(port=port, url=sink.url.replace("smtp:", "smtp+notls:")))
            mail.send(port, "x@far.example", "plain")
            arrived(sink, "plain")
        assert not sink.messages[0].tls

    def test_smtps(self, start: Start, port: int, server: ssl.SSLContext, authority: trustme.CA, where: Path,
                   user: str) -> None:
        authority.cert_pem.write_to_path(str(where / "ca.pem"))
        (where / "ca.pem").chmod(0o644)
        if user:
            os.chown(where / "ca.pem", pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        with Sink(tls=server, smtps=True) as sink:
            relay = RELAY.format(port=port, url=f'smtps://localhost:{sink.port} ca "mine"')
            start(f'ca "mine" cert "{where}/ca.pem"\n{relay}')
            mail.send(port, "x@far.example", "smtps")
            arrived(sink, "smtps")
        assert sink.messages[0].tls

    def test_a_certificate_that_does_not_verify_where_it_must(
            self, start: Start, port: int, server: ssl.SSLContext) -> None:
        with Sink(tls=server, smtps=True) as sink:
            daemon = start(RELAY.format(port=port, url=sink.url))
            mail.send(port, "x@far.example", "untrusted")
            daemon.until_logged(r'mta delivery .*result="TempFail"')
        assert sink.messages == []

    def test_a_broken_handshake_falls_back_to_plain_text(self, start: Start, port: int) -> None:
        with Sink(extensions=("STARTTLS",)) as sink:
            # Offers STARTTLS, says 220, and then speaks no TLS: its 250s are no handshake.
            sink.replies["STARTTLS"] = lambda line: "220 go on"
            daemon = start(RELAY.format(port=port, url=sink.url))
            mail.send(port, "x@far.example", "fallback")
            arrived(sink, "fallback", 30)
        assert "opportunistic TLS failed, downgrading to plain" in daemon.log

    def test_inbound(self, start: Start, port: int, sink: Sink, authority: trustme.CA, where: Path, user: str) -> None:
        certificate = authority.issue_cert("mx.example")
        certificate.private_key_pem.write_to_path(str(where / "key.pem"))
        certificate.cert_chain_pems[0].write_to_path(str(where / "cert.pem"))
        for name in ("key.pem", "cert.pem"):
            (where / name).chmod(0o600)
            if user:
                entry = pwd.getpwnam(user)
                os.chown(where / name, entry.pw_uid, entry.pw_gid)
        daemon = start(
            f'pki mx.example cert "{where}/cert.pem"\npki mx.example key "{where}/key.pem"\n'
            + RELAY.format(port=f"{port} tls pki mx.example", url=sink.url))
        context = ssl.create_default_context()
        authority.configure_trust(context)
        with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
            client.ehlo("here")
            assert client.has_extn("starttls")
            client._host = "mx.example"  # type: ignore[attr-defined]
            client.starttls(context=context)
            client.ehlo("here")
            assert not client.has_extn("starttls")
            client.sendmail("a@b.example", ["x@far.example"], mail.letter("inbound", 100_000))
        arrived(sink, "inbound")
        assert b"(TLSv1.3:" in sink.messages[0].data
        daemon.until_logged(r"^\w{16} smtp tls ciphers=TLSv1\.3:")

    def test_commands_behind_starttls_are_not_obeyed(
            self, start: Start, port: int, sink: Sink, authority: trustme.CA, where: Path, user: str) -> None:
        """What was sent in plain text after STARTTLS is dropped with the plain text (CVE-2011-0411)."""
        certificate = authority.issue_cert("mx.example")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(where / "both.pem"))
        (where / "both.pem").chmod(0o600)
        if user:
            os.chown(where / "both.pem", pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        start(f'pki mx.example cert "{where}/both.pem"\npki mx.example key "{where}/both.pem"\n'
              + RELAY.format(port=f"{port} tls pki mx.example", url=sink.url))
        with socket.create_connection(("127.0.0.1", port), 20) as sock:
            sock.recv(1000)
            sock.sendall(b"EHLO here\r\n")
            sock.recv(1000)
            sock.sendall(b"STARTTLS\r\nMAIL FROM:<evil@b.example>\r\n")
            assert sock.recv(1000).startswith(b"220 ")
            context = ssl.create_default_context()
            authority.configure_trust(context)
            with context.wrap_socket(sock, server_hostname="mx.example") as secure:
                secure.sendall(b"RCPT TO:<x@far.example>\r\n")
                assert secure.recv(1000).startswith(b"503 ")


@pytest.mark.root
class TestByMx:
    """With a name server of the test's, and hosts on port 25 of other loopback addresses."""

    @pytest.fixture
    def dns(self) -> Iterator[FakeDns]:
        with FakeDns() as server:
            yield server

    @staticmethod
    def config(port: int, dns: FakeDns) -> str:
        return (f'resolver {dns.where}\nlisten on 127.0.0.1 port {port}\naction "out" relay\n'
                'match from any for any action "out"\n')

    @pytest.fixture
    def network(self) -> str:
        """Loopback addresses that no other test uses."""
        return f"127.{random.randint(1, 250)}.{random.randint(1, 250)}"

    def test_the_best_that_answers(self, start: Start, port: int, dns: FakeDns, network: str) -> None:
        dns.add("far.example", "MX", "10 mx1.far.example.", "20 mx2.far.example.", "30 mx3.far.example.")
        for at in (1, 2, 3):
            dns.add(f"mx{at}.far.example", "A", f"{network}.{at}")
        with Sink(address=f"{network}.2", port=25) as second, Sink(address=f"{network}.3", port=25) as third:
            second.replies["CONNECT"] = lambda line: "421 4.3.2 not now"
            daemon = start(self.config(port, dns))
            mail.send(port, "x@far.example", "mx")
            arrived(third, "mx", 40)
            assert second.sessions > 0, "mx2 was not tried"
            daemon.until_logged(r'mta delivery .*relay="127\.\d+\.\d+\.3.*" .*result="Ok"')

    def test_no_mx_is_the_address(self, start: Start, port: int, dns: FakeDns, network: str) -> None:
        dns.add("plain.example", "A", f"{network}.4")
        with Sink(address=f"{network}.4", port=25) as sink:
            start(self.config(port, dns))
            mail.send(port, "x@plain.example", "address")
            arrived(sink, "address")

    def test_a_null_mx_fails_at_once(self, start: Start, port: int, dns: FakeDns) -> None:
        dns.add("null.example", "MX", "0 .")
        daemon = start(self.config(port, dns))
        mail.send(port, "x@null.example", "null", sender="")
        daemon.until_logged(r'mta delivery .*to=<x@null.example>.*result="PermFail"')

    def test_a_name_server_that_fails_is_no_verdict(self, start: Start, port: int, dns: FakeDns) -> None:
        dns.fail("broken.example", "MX", "SERVFAIL")
        daemon = start(self.config(port, dns))
        mail.send(port, "x@broken.example", "broken", sender="")
        daemon.until_logged(r'mta delivery .*to=<x@broken.example>.*result="TempFail"')

    def test_a_name_that_does_not_exist_fails(self, start: Start, port: int, dns: FakeDns) -> None:
        daemon = start(self.config(port, dns))
        dns.fail("nothing.example", "MX", "NXDOMAIN")
        dns.fail("nothing.example", "A", "NXDOMAIN")
        dns.fail("nothing.example", "AAAA", "NXDOMAIN")
        mail.send(port, "x@nothing.example", "nothing", sender="")
        daemon.until_logged(r'mta delivery .*to=<x@nothing.example>.*result="PermFail"')


def test_lmtp_relay(start: Start, port: int) -> None:
    with Sink(lmtp=True) as sink:
        daemon = start(RELAY.format(port=port, url=sink.url))
        mail.send(port, ["a@far.example", "b@far.example"], "lmtp")
        until(lambda: sum(len(one.rcpts) for one in sink.messages) == 2, "both recipients")
    assert any(line.startswith("LHLO ") for line in sink.commands)
    assert isinstance(daemon, Daemon)
