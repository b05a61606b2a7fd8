"""Files a configuration names: certificates that are not their key's, passwords for all, sockets nobody gets to."""

import pytest

from pysmtpd.conf.source import Certificate, Stat, Unusable
from tests.conf.machine import NOW, Machine, errors, read

DAY = 86400
PKI = 'pki a cert "/etc/cert.pem" key "/etc/key.pem"\n'
LMTP = "action a lmtp \"/run/lmtp\" {}\nmatch for local action a\n"


def told(text: str, machine: Machine) -> list[str]:
    """Each warning whole."""
    found = read(text, machine)
    assert found.errors == []
    return [str(warning) for warning in found.warnings if "never" not in warning.message]


def with_certificate(*, before: int = -DAY, after: int = 90 * DAY, fits: bool = True) -> Machine:
    machine = Machine()
    machine.certificates["/etc/cert.pem", "/etc/key.pem"] = Certificate(NOW + before, NOW + after, fits)
    return machine


def test_a_key_of_another_certificate() -> None:
    assert [str(one) for one in read(PKI, with_certificate(fits=False)).errors] == ["""\
smtpd.conf:1:32: this key is not that of the certificate /etc/cert.pem
    pki a cert "/etc/cert.pem" key "/etc/key.pem"
                                   ^^^^^^^^^^^^^^
  these differ: openssl x509 -noout -pubkey -in /etc/cert.pem
  and: openssl pkey -pubout -in /etc/key.pem"""]


@pytest.mark.parametrize("before, after, message", [
    (-DAY, -1, "the certificate /etc/cert.pem expired on 2027-01-15"),
    (DAY, 9 * DAY, "the certificate /etc/cert.pem is not valid before 2027-01-16"),
    (-DAY, 10 * DAY, "the certificate /etc/cert.pem expires on 2027-01-25"),
    (-DAY, 15 * DAY, ""),
])
def test_the_times_of_a_certificate_are_warnings(before: int, after: int, message: str) -> None:
    found = read(PKI + "listen on lo tls pki a", with_certificate(before=before, after=after))
    assert found.config is not None
    assert [one.message for one in found.warnings] == ([message] if message else [])
    assert all(str(one.at) == "smtpd.conf:1:12" for one in found.warnings)


def test_a_file_without_a_certificate() -> None:
    class Odd(Machine):
        def certificate(self, cert: str, key: str) -> Certificate | None:
            raise Unusable(key, "there is no private key in it (PEM)")

    assert errors(PKI, Odd()) == ["1:32: /etc/key.pem: there is no private key in it (PEM)"]


def test_a_key_that_only_root_may_read_is_not_checked() -> None:
    machine = Machine()
    machine.secret = {"/etc/key.pem"}
    assert [one.message for one in read(PKI + "listen on lo tls pki a", machine).warnings] == [
        "not checked: whether /etc/key.pem is the key of /etc/cert.pem: need root"]


def test_a_file_that_is_wrong_already_is_not_looked_into() -> None:
    machine = with_certificate(fits=False)
    machine.put("/etc/key.pem", "x", mode=0o644)
    assert errors(PKI, machine) == ["1:32: /etc/key.pem has insecure permissions: 0644"]


@pytest.mark.parametrize("use", [
    "action a relay host x auth <s>\nmatch for any action a", PKI + "listen on lo tls pki a auth <s>",
])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o604])
def test_a_table_of_passwords_that_everybody_can_read(use: str, mode: int) -> None:
    machine = Machine()
    machine.put("/etc/secrets", "x joe:pass\n", mode=mode)
    found = [one for one in told(f"{use}\ntable s file:/etc/secrets", machine) if "read" in one]
    if not mode & 0o4:
        assert found == []
        return
    line = use.count("\n") + 2
    assert found == [f"""\
smtpd.conf:{line}:9: warning: everybody on this machine can read /etc/secrets (mode {mode:04o}), and the passwords in it
    table s file:/etc/secrets
            ^^^^^^^^^^^^^^^^^
  mend it with: chgrp _smtpd /etc/secrets && chmod g=r,o= /etc/secrets"""]


def test_who_runs_the_daemon_alone_needs_no_group_to_read_passwords() -> None:
    machine = Machine()
    machine.put("/etc/secrets", "x joe:pass\n", uid=1000, mode=0o644)
    text = "action a relay host x auth <s>\nmatch for any action a\ntable s file:/etc/secrets"
    assert "\n  mend it with: chmod o= /etc/secrets" in "".join(
        map(str, read(text, machine, unprivileged_user="joe").warnings))


def test_a_key_in_a_file_that_everybody_can_read() -> None:
    class Open(Machine):
        def put(self, path: str, text: str | bytes, uid: int = 0, mode: int = 0o644) -> None:
            super().put(path, text, uid, mode)

    text = 'srs key "hush"\nqueue encryption "0123456789abcdef0123456789abcdef"\n'
    found = [one for one in told(text, Open()) if "read" in one]
    assert [one.split("\n")[0] for one in found] == [
        f"smtpd.conf:{at}: warning: everybody on this machine can read smtpd.conf (mode 0644), and this key"
        for at in ("1:9", "2:18")]
    assert "hush" not in str(found) and "0123" not in str(found)
    assert [one for one in told(text, Machine()) if "read" in one] == []


def test_a_socket_that_deliveries_cannot_connect_to() -> None:
    machine = Machine()
    machine.obstacles["/run/lmtp"] = "vmail may not write to it (mode 0600, root:root)"
    assert told(LMTP.format("user vmail"), machine) == ["""\
smtpd.conf:1:15: warning: deliveries cannot connect to "/run/lmtp": vmail may not write to it (mode 0600, root:root)
    action a lmtp "/run/lmtp" user vmail
                  ^^^^^^^^^^^"""]
    assert told(LMTP.format("rcpt-to"), machine)
    assert read(LMTP.format(""), machine, unprivileged_user="joe").config is not None
    assert machine.asked == [("/run/lmtp", "vmail"), ("/run/lmtp", ""), ("/run/lmtp", "joe")]


def test_only_sockets_are_asked_about() -> None:
    machine = Machine()
    assert told('action a lmtp "localhost:24"\naction b lmtp "/run/%{user.username}"\n'
                "match for local action a\nmatch for any action b", machine) == []
    assert machine.asked == []


def test_what_may_not_be_looked_at_is_not_checked() -> None:
    class Blind(Machine):
        def obstacle(self, path: str, user: str) -> str:
            raise PermissionError

    assert [one.split("\n")[0] for one in told(LMTP.format(""), Blind())] == [
        "smtpd.conf:1:15: warning: not checked: /run/lmtp: need root"]


def test_the_file_of_the_log_may_be_missing_its_directory_may_not() -> None:
    machine = Machine()
    text = 'log destination file "/var/log/mail/smtpd"'
    assert errors(text, machine) == ["1:22: /var/log/mail: No such file or directory"]
    machine.put("/var/log/mail", "")
    assert errors(text, machine) == []
    machine.put("/var/log/mail/smtpd", "")
    assert errors(text, machine) == []
    machine.stats["/var/log/mail/smtpd"] = Stat(0, 0o755, False)
    assert errors(text, machine) == ["1:22: /var/log/mail/smtpd is not a file"]
    assert errors(f"{text}\nlog destination syslog", machine) == []
