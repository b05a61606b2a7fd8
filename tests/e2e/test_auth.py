"""AUTH: the real daemon, with tables, certificates, the system's users, Dovecot and saslauthd."""

import base64
import os
import pwd
import re
import shutil
import smtplib
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from pysmtpd.lookup import libcrypt
from tests.e2e.conftest import Start
from tests.lookup.test_sasl import Scram
from tests.support import debian, mail
from tests.support.daemon import until

CONFIG = """
pki here cert "{where}/cert.pem" key "{where}/key.pem"
ca clients cert "{where}/ca.pem"
table creds file:{where}/creds
table people {{ joe = "joe@example.org, @joe.example" , ann = "@" }}
listen on 127.0.0.1 port {port} {listen} pki here
action out maildir "{where}/box" user {user}
match from auth for any action out
"""
HASH = libcrypt.crypt(b"secret", "$6$saltstring$")


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(where: Path, authority: trustme.CA, user: str) -> Path:
    """Certificate, key and credentials, readable by the daemon."""
    cert = authority.issue_cert("localhost", "127.0.0.1")
    cert.private_key_pem.write_to_path(str(where / "key.pem"))
    cert.cert_chain_pems[0].write_to_path(str(where / "cert.pem"))
    authority.cert_pem.write_to_path(str(where / "ca.pem"))
    (where / "creds").write_text(f"joe\t{HASH}\nann\tannabel:{{PLAIN}}pencil\n")
    entry = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
    for name, mode in (("key.pem", 0o600), ("cert.pem", 0o644), ("ca.pem", 0o644), ("creds", 0o644)):
        (where / name).chmod(mode)
        os.chown(where / name, entry.pw_uid, entry.pw_gid)
    return where


@contextmanager
def client(port: int, authority: trustme.CA, *, starttls: bool = True, cert: trustme.LeafCert | None = None
           ) -> Iterator[smtplib.SMTP]:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if cert is not None:
        cert.configure_cert(context)
    with (smtplib.SMTP("127.0.0.1", port, timeout=30) if starttls else
          smtplib.SMTP_SSL("127.0.0.1", port, timeout=30, context=context)) as session:
        if starttls:
            session.starttls(context=context)
        session.ehlo()
        yield session


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_table_of_credentials(start: Start, port: int, files: Path, authority: trustme.CA, box: Path,
                                recipient: pwd.struct_passwd) -> None:
    daemon = start(CONFIG.format(where=files, port=port, user=recipient.pw_name,
                                 listen="tls auth <creds> senders <people> masquerade received-auth"))
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as plain:
        plain.ehlo()
        assert not plain.has_extn("auth")
        assert plain.docmd("AUTH", "PLAIN " + b64(b"\0joe\0secret"))[0] == 503
    with client(port, authority) as session:
        assert session.esmtp_features["auth"].split() == ["PLAIN", "LOGIN"]
        assert session.docmd("MAIL", "FROM:<joe@example.org>")[0] == 530
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            session.login("joe", "wrong")
        assert refused.value.smtp_code == 535
        session.login("joe", "secret", initial_response_ok=False)
        assert session.docmd("MAIL", "FROM:<ann@example.org>") \
            == (550, b"5.7.1 Delivery not authorized, message refused: Sender rejected")
        session.sendmail("x@joe.example", [f"{recipient.pw_name}@far.example"], mail.letter("by-joe"))
    with client(port, authority) as session:
        session.user, session.password = "ann", "pencil"
        assert session.auth("LOGIN", session.auth_login)[0] == 235
        session.sendmail("anybody@anywhere.example", [f"{recipient.pw_name}@far.example"], mail.letter("by-ann"))
    until(lambda: len(mail.maildir(box)) == 2, "two messages")
    texts = mail.maildir(box)
    assert any(re.search(rb"with ESMTPSA id \w{8} \(TLS[^)]*\) auth=yes user=joe\r?\n", text) for text in texts)
    assert any(b"\nFrom: <x@joe.example>\n" in text.replace(b"\r", b"") for text in texts)
    assert re.search(r"^\w{16} smtp authentication user=joe result=permfail$", daemon.log, re.MULTILINE)
    daemon.until_logged(r"^\w{16} smtp auth-failed address=127\.0\.0\.1 user=joe mechanism=PLAIN$")
    assert re.search(r"^\w{16} smtp authentication user=ann result=ok$", daemon.log, re.MULTILINE)
    for secret in ("secret", "pencil", "wrong", b64(b"\0joe\0secret"), HASH):
        assert str(secret) not in daemon.log


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_swaks(start: Start, port: int, files: Path, box: Path, recipient: pwd.struct_passwd, mechanism: str) -> None:
    root = debian.unpack("swaks", "libnet-ssleay-perl")
    modules = [*root.glob("usr/lib/*/perl5/*"), *root.glob("usr/share/perl5")]
    environ = {**os.environ, "PERL5LIB": ":".join(map(str, modules))}
    start(CONFIG.format(where=files, port=port, user=recipient.pw_name, listen="tls-require auth <creds>"))
    for password, status in (("wrong", 28), ("secret", 0)):
        done = subprocess.run(
            ["perl", str(root / "usr/bin/swaks"), "--server", f"127.0.0.1:{port}", "--from", "joe@client.example",
             "--to", f"{recipient.pw_name}@far.example", "--helo", "client.example",
             "--tls", "--auth", mechanism, "--auth-user", "joe",
             "--auth-password", password, "--timeout", "20"],
            env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == status, done.stdout + done.stderr
    until(lambda: mail.maildir(box), "the message")


def test_scram_and_a_certificate(start: Start, port: int, files: Path, authority: trustme.CA, box: Path,
                                 recipient: pwd.struct_passwd) -> None:
    (files / "creds").write_text("user {PLAIN}pencil\nann@example.org {PLAIN}x\n")
    start(CONFIG.format(where=files, port=port, user=recipient.pw_name,
                        listen="smtps verify ca clients auth <creds>"))
    cert = authority.issue_cert("ann@example.org", common_name="Ann")
    with client(port, authority, starttls=False, cert=cert) as session:
        assert session.esmtp_features["auth"].split() == ["SCRAM-SHA-256", "PLAIN", "LOGIN", "EXTERNAL"]
        for password, code in (("wrong", 535), ("pencil", 235)):
            scram = Scram(password)
            reply, text = session.docmd("AUTH", "SCRAM-SHA-256 " + b64(scram.first))
            assert reply == 334
            reply, text = session.docmd(b64(scram.final(base64.b64decode(text))))
            if code == 235:
                assert reply == 334 and base64.b64decode(text).startswith(b"v=")
                reply, text = session.docmd("")
            assert reply == code
    with client(port, authority, starttls=False, cert=cert) as session:
        assert session.docmd("AUTH", "EXTERNAL =")[0] == 235
        session.sendmail("ann@example.org", [f"{recipient.pw_name}@far.example"], mail.letter("by-ann"))
    until(lambda: mail.maildir(box), "the message")
    stranger = authority.issue_cert("eve@example.org")
    with client(port, authority, starttls=False, cert=stranger) as session:
        assert session.docmd("AUTH", "EXTERNAL =")[0] == 535


@pytest.mark.root
@pytest.mark.parametrize("how", ["shadow", "pam"])
def test_system_users(start: Start, port: int, files: Path, authority: trustme.CA, user: str, how: str) -> None:
    if user:
        pytest.skip("needs root to read the shadow file")
    etc = files / "etc"
    (etc / "pam.d").mkdir(parents=True)
    today = int(time.time()) // 86400
    lines = [f"nobody:{HASH}:{today - 9}:0:99999:7:::", f"mail:{HASH}:{today - 9}:0:99999:7::{today - 1}:"]
    kept = [line for line in Path("/etc/shadow").read_text().splitlines() if not line.startswith(("nobody:", "mail:"))]
    (etc / "shadow").write_text("\n".join([*kept, *lines, ""]))
    (etc / "shadow").chmod(0o640)
    if how == "pam":
        (etc / "pam.d/smtpd").write_text("auth required pam_unix.so nodelay\naccount required pam_unix.so\n")
    overlay = ["unshare", "--mount", "sh", "-c",
               f'mount -t overlay overlay -o lowerdir="{etc}:/etc" /etc && exec "$@"', "sh"]
    if subprocess.run([*overlay, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("no overlay mounts here")
    daemon = start(CONFIG.format(where=files, port=port, user="nobody", listen="tls auth"), wrapper=overlay)
    for name, password, code in (("nobody", "secret", 235), ("nobody", "wrong", 535), ("mail", "secret", 535),
                                 ("no-such-user", "secret", 535), ("daemon", "*", 535)):
        with client(port, authority) as session:
            assert session.docmd("AUTH", "PLAIN " + b64(f"\0{name}\0{password}".encode()))[0] == code, name
    assert "secret" not in daemon.log
    assert "bug:" not in daemon.log


DOVECOT = """
base_dir = {where}/run
log_path = {where}/dovecot.log
protocols =
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
auth_mechanisms = plain login scram-sha-256
auth_username_format = %Lu
passdb {{
  driver = passwd-file
  args = {where}/users
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home=/nonexistent
}}
service auth {{
  unix_listener {where}/auth {{
    mode = 0666
  }}
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
"""


@pytest.mark.root
def test_dovecot(start: Start, port: int, files: Path, authority: trustme.CA, user: str) -> None:
    overlay = debian.overlay("dovecot-core")
    (files / "users").write_text("joe@example.org:{PLAIN}secret\nuser:{PLAIN}pencil\n")
    (files / "users").chmod(0o644)
    config = files / "dovecot.conf"
    config.write_text(DOVECOT.format(where=files))
    with subprocess.Popen([*overlay, "/usr/sbin/dovecot", "-F", "-c", str(config)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, start_new_session=True) as process:
        try:
            def ready() -> bool:
                if process.poll() is not None:
                    assert process.stdout is not None
                    raise debian.Unavailable(f"dovecot does not start: {process.stdout.read()[-500:]!r}")
                return (files / "auth").exists()

            until(ready, "Dovecot's socket", 20)
            daemon = start(CONFIG.format(where=files, port=port, user=user or "nobody",
                                         listen=f'tls auth dovecot "{files}/auth"'))

            def offered() -> list[str]:
                with client(port, authority) as session:
                    return session.esmtp_features["auth"].split()

            until(lambda: "SCRAM-SHA-256" in offered(), "Dovecot's mechanisms")
            assert set(offered()) == {"PLAIN", "LOGIN", "SCRAM-SHA-256"}
            for password, code in (("wrong", 535), ("secret", 235)):
                with client(port, authority) as session:
                    assert session.docmd("AUTH", "PLAIN " + b64(f"\0Joe@example.org\0{password}".encode()))[0] == code
            with client(port, authority) as session:
                session.user, session.password = "joe@example.org", "secret"
                assert session.auth("LOGIN", session.auth_login, initial_response_ok=False)[0] == 235
            with client(port, authority) as session:
                scram = Scram("pencil")
                reply, text = session.docmd("AUTH", "SCRAM-SHA-256 " + b64(scram.first))
                reply, text = session.docmd(b64(scram.final(base64.b64decode(text))))
                assert reply == 334
                assert session.docmd("")[0] == 235
            daemon.until_logged(r"smtp authentication user=joe@example\.org result=ok")
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.root
def test_saslauthd(start: Start, port: int, files: Path, authority: trustme.CA, user: str) -> None:
    overlay = debian.overlay("sasl2-bin")
    etc = files / "etc"
    (etc / "pam.d").mkdir(parents=True)
    (etc / "pam.d/smtp").write_text("auth required pam_unix.so nodelay\naccount required pam_permit.so\n")
    shutil.copy("/etc/shadow", etc / "shadow")
    with open(etc / "shadow", "a", encoding="ascii") as shadow:
        shadow.write("")
    text = (etc / "shadow").read_text()
    (etc / "shadow").write_text(re.sub(r"(?m)^nobody:[^:]*:", f"nobody:{HASH}:", text))
    (files / "mux").mkdir()
    mount = f'mount -t overlay overlay -o lowerdir="{etc}:/etc" /etc && exec "$@"'
    command = [*(overlay or ["unshare", "--mount"]), "sh", "-c", mount, "sh", "/usr/sbin/saslauthd", "-d", "-a", "pam",
               "-m", str(files / "mux"), "-n", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as process:
        try:
            def ready() -> bool:
                if process.poll() is not None:
                    assert process.stdout is not None
                    raise debian.Unavailable(f"saslauthd does not start: {process.stdout.read()[-500:]!r}")
                return (files / "mux/mux").exists()

            until(ready, "saslauthd's socket", 20)
            (files / "mux").chmod(0o755)
            start(CONFIG.format(where=files, port=port, user=user or "nobody",
                                listen=f'tls auth saslauthd "{files}/mux/mux"'))
            for password, code in (("wrong", 535), ("secret", 235)):
                with client(port, authority) as session:
                    assert session.docmd("AUTH", "PLAIN " + b64(f"\0nobody\0{password}".encode()))[0] == code
        finally:
            process.terminate()
            process.wait(20)
