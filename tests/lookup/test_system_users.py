"""The child that checks one password of a system user."""

import os
import pwd
import socket
import subprocess
import sys
from typing import Any

import pytest

from pysmtpd.base.procs import Proc
from pysmtpd.imsg import Decoder, Encoder
from pysmtpd.lookup import system_users
from pysmtpd.lookup.system_users import DUMMY, _Spwd, check, check_shadow, in_force
from pysmtpd.messages import AuthAnswered, AuthAsk, AuthResult

HASH = "$6$saltstring$AIsRs/Ee56G/tC8MEHhvReZTfx8u3rXXMl6eYrjCG9ibix19DxoMBLogdTET5Ukw9Sf7eZTITsuk0Ry5qulYz."
USERS = {"joe": (HASH, True), "old": (HASH, False), "locked": ("!" + HASH, True), "none": ("", True),
         "star": ("*", True)}


@pytest.fixture
def shadow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_users, "shadow_of", USERS.get)
    monkeypatch.setattr(system_users, "pam_knows_us", lambda: False)


@pytest.mark.parametrize("user, password, result", [
    ("joe", "secret", AuthResult.OK), ("joe", "wrong", AuthResult.PERMFAIL), ("joe", "", AuthResult.PERMFAIL),
    ("old", "secret", AuthResult.PERMFAIL), ("locked", "secret", AuthResult.PERMFAIL),
    ("none", "", AuthResult.PERMFAIL), ("none", "x", AuthResult.PERMFAIL), ("star", "*", AuthResult.PERMFAIL),
    ("nobody", "secret", AuthResult.PERMFAIL), ("joe", "secret\0", AuthResult.PERMFAIL), ("", "x", AuthResult.PERMFAIL),
    ("jo\0e", "secret", AuthResult.PERMFAIL),
])
@pytest.mark.usefixtures("shadow")
def test_by_the_shadow_file(user: str, password: str, result: AuthResult) -> None:
    assert check(AuthAsk(1, user, password, "192.0.2.1")) is result


def test_a_shadow_file_that_may_not_be_read_is_a_temporary_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_user: str) -> Any:
        raise PermissionError(13, "x")

    monkeypatch.setattr(system_users, "shadow_of", refuse)
    assert check_shadow("joe", "secret") is AuthResult.TEMPFAIL


def test_who_does_not_exist_costs_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def crypt(_password: bytes, setting: str) -> str | None:
        asked.append(setting)
        return None

    monkeypatch.setattr(system_users, "shadow_of", USERS.get)
    monkeypatch.setattr("pysmtpd.lookup.libcrypt.crypt", crypt)
    check_shadow("nobody", "x")
    assert asked == [DUMMY]


@pytest.mark.parametrize("changed, most, inactive, expires, good", [
    (100, 99999, -1, -1, True), (-1, -1, -1, -1, True), (100, 50, -1, -1, False), (100, 50, 100, -1, True),
    (100, 99999, -1, 199, False), (100, 99999, -1, 201, True), (0, 99999, -1, -1, False), (100, -1, -1, 0, False),
])
def test_accounts_in_force(changed: int, most: int, inactive: int, expires: int, good: bool) -> None:
    entry = _Spwd(changed=changed, most=most, inactive=inactive, expires=expires)
    assert in_force(entry, 200) is good


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to read the shadow file")
def test_the_real_shadow_file() -> None:
    name = pwd.getpwuid(0).pw_name
    found = system_users.shadow_of(name)
    assert found is not None and isinstance(found[0], str)
    assert system_users.shadow_of("no such user") is None


def test_the_child_answers_once_and_leaves() -> None:
    ours, theirs = socket.socketpair()
    child = subprocess.Popen(
        [sys.executable, "-I", "-c", "import os, sys; os.dup2(int(sys.argv[1]), 3); os.set_inheritable(3, True); "
         "os.execv(sys.executable, [sys.executable, '-I', '-m', 'pysmtpd.lookup.system_users'])",
         str(theirs.fileno())], pass_fds=(theirs.fileno(),))
    theirs.close()
    encoder = Encoder(Proc.LKA, Proc.AUTH, 1)
    ours.settimeout(20)
    ours.sendall(encoder.encode(AuthAsk(7, "no-such-user-here", "x", "192.0.2.1")))
    data = ours.recv(1000)
    [frame] = Decoder(Proc.AUTH, Proc.LKA).feed(data)
    assert isinstance(frame.message, AuthAnswered)
    assert frame.message.reqid == 7 and frame.message.result is not AuthResult.OK
    assert ours.recv(1000) == b""
    ours.close()
    assert child.wait(20) == 0


def test_garbage_ends_the_child() -> None:
    ours, theirs = socket.socketpair()
    child = subprocess.Popen(
        [sys.executable, "-I", "-c", "import os, sys; os.dup2(int(sys.argv[1]), 3); os.set_inheritable(3, True); "
         "os.execv(sys.executable, [sys.executable, '-I', '-m', 'pysmtpd.lookup.system_users'])",
         str(theirs.fileno())], pass_fds=(theirs.fileno(),))
    theirs.close()
    ours.sendall(b"\xff" * 100)
    ours.settimeout(20)
    assert ours.recv(1000) == b""
    ours.close()
    assert child.wait(20) == 1
