"""The parent judges every request of mda as if an enemy had sent it."""

import errno
import os
import pwd
import socket
import stat
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from pysmtpd.base.paths import under
from pysmtpd.base.procs import Proc
from pysmtpd.base.struct import replace
from pysmtpd.conf.config import Action, Config, Limits, Listener, Method
from pysmtpd.imsg import Message
from pysmtpd.messages import (
    AuthRefused,
    AuthStart,
    AuthStarted,
    ForwardMissing,
    ForwardOpen,
    ForwardState,
    Found,
    MdaWorkerExited,
    MdaWorkerRefused,
    MdaWorkerStart,
    MdaWorkerStarted,
    MdaWorkerStop,
    UserAsk,
    UserTold,
    WorkerKind,
)
from pysmtpd.parent import Options, Parent
from pysmtpd.privsep import home
from pysmtpd.privsep.homes import Tell
from pysmtpd.privsep.log import Log
from pysmtpd.privsep.password_checks import AT_ONCE
from pysmtpd.privsep.process import Birth
from pysmtpd.privsep.startup import Identities
from pysmtpd.privsep.workers import Worker

ME = pwd.getpwuid(os.geteuid()).pw_name
CONFIG = Config(
    hostname="mx.example.org",
    actions={
        "maildir": Action(name="maildir", method=Method.MAILDIR),
        "mbox": Action(name="mbox", method=Method.MBOX),
        "wrapped": Action(name="wrapped", method=Method.MBOX, wrapper="scan"),
        "fixed": Action(name="fixed", method=Method.LMTP, user="vmail"),
        "out": Action(name="out", method=Method.RELAY),
        "virtual": Action(name="virtual", method=Method.MAILDIR, userbase="vusers"),
    },
)


class Mda:
    """Stands for the peer; remembers what it was sent."""

    closed = False

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, message: Message, fd: int | None = None) -> None:
        self.sent.append(message)
        if fd is not None:
            os.close(fd)


class Bare(NamedTuple):
    """In place of the children that may hang."""

    ask: Any


class Fixture:
    """A parent that was not started, and cannot start anything."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, privileged: bool) -> None:
        paths = under("/nonexistent")
        birth = Birth(proc="parent", uid=0, gid=0, spool=paths.spool, socket=paths.socket, stderr=True, verbose=0)
        who = Identities(1, 1, 2, 2, "" if privileged else ME)
        self.parent = Parent(birth, Log(stderr=True, verbose=False), Options(config="x"), who, -1)
        self.parent.config = CONFIG
        self.parent.homes = cast(Any, Bare(self.ask_home))
        self.asked_homes: list[Message] = []
        self.hanging = False
        self.mda = Mda()
        self.parent._peers[Proc.MDA] = [self.mda]  # type: ignore[list-item]
        self.started: list[list[str]] = []
        monkeypatch.setattr("pysmtpd.privsep.spawn.spawn", self._spawn)
        self.users = {
            "_smtpd": _entry("_smtpd", 1), "_smtpq": _entry("_smtpq", 2),
            "root": _entry("root", 0), "alice": _entry("alice", 1000), "vmail": _entry("vmail", 2000),
            ME: pwd.getpwnam(ME),
        }

    def ask_home(self, message: Message, _about: str, tell: Tell) -> None:
        """In place of a child."""
        self.asked_homes.append(message)
        if self.hanging:
            tell(None, None)
        else:
            tell(*home.answer(message, self.users.get))

    def _spawn(self, _module: str, arguments: list[str], _sock: object, **_: object) -> int:
        self.started.append(arguments)
        return 10_000 + len(self.started)

    def with_lka(self) -> "Mda":
        lka = Mda()
        self.parent._peers[Proc.LKA] = [lka]  # type: ignore[list-item]
        self.parent.loop = cast(Any, self)
        return lka

    def call_later(self, *_: object) -> None:
        """No time passes."""

    def ask(self, action: str, user: str, kind: WorkerKind) -> Message:
        self.parent.worker_start(self.mda, MdaWorkerStart(1, action, user, kind))  # type: ignore[arg-type]
        return self.mda.sent[-1]


def _entry(name: str, uid: int) -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", uid, uid, "", f"/home/{name}", "/bin/sh"))


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Fixture:
    return Fixture(monkeypatch, privileged=True)


def test_a_user_of_a_local_action(root: Fixture) -> None:
    assert root.ask("maildir", "alice", WorkerKind.USER) == MdaWorkerStarted(1, 10_001, "/home/alice")
    assert root.started == [["1000", "1000", "/home/alice", "alice", "user", "/var/mail"]]


@pytest.mark.parametrize(("action", "user", "kind", "temporary", "text"), [
    ("nothing", "alice", WorkerKind.USER, True, "no such action"),
    ("out", "alice", WorkerKind.USER, True, "no such action"),
    ("maildir", "alice", WorkerKind.MBOX, True, "not what the action says"),
    ("wrapped", "root", WorkerKind.MBOX, True, "not what the action says"),
    ("fixed", "alice", WorkerKind.USER, True, "not what the action says"),
    ("maildir", "root", WorkerKind.USER, False, "MDA not allowed to deliver to: root"),
    ("wrapped", "root", WorkerKind.USER, False, "MDA not allowed to deliver to: root"),
    ("maildir", "nobody-here", WorkerKind.USER, False, "delivery user 'nobody-here' does not exist"),
    ("maildir", "_smtpd", WorkerKind.USER, False, "MDA not allowed to deliver to: _smtpd"),
    ("maildir", "_smtpq", WorkerKind.USER, False, "MDA not allowed to deliver to: _smtpq"),
    ("mbox", "_smtpq", WorkerKind.MBOX, False, "MDA not allowed to deliver to: _smtpq"),
])
def test_what_the_configuration_cannot_ask_for(
    root: Fixture, action: str, user: str, kind: WorkerKind, temporary: bool, text: str
) -> None:
    assert root.ask(action, user, kind) == MdaWorkerRefused(1, temporary, text)
    assert root.started == []


def test_a_user_of_a_userbase_is_who_lka_says(root: Fixture) -> None:
    lka = root.with_lka()
    for found, answer in (
        (UserTold(0, Found.YES, 5000, 5000, "/var/vmail/carol"), MdaWorkerStarted(1, 10_001, "/var/vmail/carol")),
        (UserTold(0, Found.YES, 0, 5000, "/root"), MdaWorkerRefused(1, False, "MDA not allowed to deliver to: carol")),
        (UserTold(0, Found.YES, 1, 1, "/x"), MdaWorkerRefused(1, False, "MDA not allowed to deliver to: carol")),
        (UserTold(0, Found.YES, 0xFFFFFFFF, 1, "/x"),
         MdaWorkerRefused(1, False, "MDA not allowed to deliver to: carol")),
        (UserTold(0, Found.YES, 5000, 999, "/x"),
         MdaWorkerRefused(1, False, "MDA not allowed to deliver to: carol with group 999 of the system")),
        (UserTold(0, Found.NO, 0, 0, ""), MdaWorkerRefused(1, False, "Permanent failure in user lookup")),
        (UserTold(0, Found.TEMPFAIL, 0, 0, ""), MdaWorkerRefused(1, True, "Temporary failure in user lookup")),
    ):
        root.parent.worker_start(root.mda, MdaWorkerStart(1, "virtual", "carol", WorkerKind.USER))  # type: ignore[arg-type]
        asked = lka.sent[-1]
        assert isinstance(asked, UserAsk) and (asked.table, asked.user) == ("vusers", "carol")
        root.parent.user_told(lka, replace(found, reqid=asked.reqid))  # type: ignore[arg-type]
        assert root.mda.sent[-1] == answer
        root.parent.user_told(lka, replace(found, reqid=asked.reqid))  # type: ignore[arg-type]
    assert root.started == [["5000", "5000", "/var/vmail/carol", "carol", "user", "/var/mail"]]
    assert len(root.mda.sent) == 7


@pytest.mark.parametrize(("gids", "uid", "gid", "refused"), [
    (None, 5000, 5000, ""),
    (None, 5009, 5000, ""),
    (None, 4999, 5000, "with ids 4999:5000"),
    (None, 5010, 5000, "with ids 5010:5000"),
    (None, 5000, 8, "with group 8 of the system"),
    ((8, 8), 5000, 8, ""),
    ((8, 8), 5000, 9, "with ids 5000:9"),
    ((8, 8), 0, 8, ""),
])
def test_an_action_may_bound_the_ids_of_its_userbase(
    root: Fixture, gids: tuple[int, int] | None, uid: int, gid: int, refused: str
) -> None:
    """Whatever a hijacked lka says."""
    action = replace(CONFIG.actions["virtual"], uids=(5000, 5009), gids=gids)
    root.parent.config = replace(CONFIG, actions={"virtual": action})
    lka = root.with_lka()
    root.parent.worker_start(root.mda, MdaWorkerStart(1, "virtual", "carol", WorkerKind.USER))  # type: ignore[arg-type]
    asked = lka.sent[-1]
    assert isinstance(asked, UserAsk)
    root.parent.user_told(lka, UserTold(asked.reqid, Found.YES, uid, gid, "/x"))  # type: ignore[arg-type]
    if refused or uid == 0:
        why = f"MDA not allowed to deliver to: carol {refused}".strip()
        assert root.mda.sent[-1] == MdaWorkerRefused(1, False, why)
    else:
        assert isinstance(root.mda.sent[-1], MdaWorkerStarted)
    root.parent.forward_open(lka, ForwardOpen(3, "virtual", "carol", uid, "/nonexistent/x"))  # type: ignore[arg-type]
    told = lka.sent[-1]
    assert isinstance(told, ForwardMissing)
    assert (told.state is ForwardState.NONE) is (5000 <= uid <= 5009)


def test_questions_to_lka_count_like_workers(root: Fixture) -> None:
    root.with_lka()
    for _ in range(CONFIG.limits.mda_max_session_per_user + 1):
        root.parent.worker_start(root.mda, MdaWorkerStart(1, "virtual", "carol", WorkerKind.USER))  # type: ignore[arg-type]
    assert root.mda.sent == [MdaWorkerRefused(1, True, "too many deliveries")]


def test_commands_of_aliases_run_as_a_user_of_the_system(root: Fixture) -> None:
    root.users["nobody"] = _entry("nobody", 65534)
    root.ask("virtual", "nobody", WorkerKind.USER)
    assert root.started == [["65534", "65534", "/home/nobody", "nobody", "user", "/var/mail"]]


@pytest.mark.parametrize("name", ["../etc/x", "a/b", "..", ".", ""])
def test_a_name_that_is_a_path_is_no_user(root: Fixture, name: str) -> None:
    refused = MdaWorkerRefused(1, False, f"delivery user '{name}' does not exist")
    assert root.ask("virtual", name, WorkerKind.USER) == refused


@pytest.mark.parametrize(("action", "user", "uid", "home", "state", "why"), [
    ("out", "alice", 1000, "/home/alice", ForwardState.REFUSED, "no action asks for it"),
    ("nothing", "alice", 1000, "/home/alice", ForwardState.REFUSED, "no action asks for it"),
    ("fixed", "alice", 1000, "/home/alice", ForwardState.REFUSED, "no action asks for it"),
    ("maildir", "nobody-here", 1000, "/home/alice", ForwardState.REFUSED, "there is no user nobody-here"),
    ("maildir", "alice", 1001, "/home/alice", ForwardState.TEMPORARY, "alice has another home directory"),
    ("maildir", "alice", 1000, "/root", ForwardState.TEMPORARY, "alice has another home directory"),
    ("maildir", "alice", 1000, "/home/alice", ForwardState.NONE, ""),
    ("virtual", "carol", 5000, "/nonexistent/carol", ForwardState.NONE, ""),
])
def test_a_forward_file_is_opened_only_for_whom_an_action_asks(
    root: Fixture, action: str, user: str, uid: int, home: str, state: ForwardState, why: str,
) -> None:
    lka = root.with_lka()
    root.parent.forward_open(lka, ForwardOpen(3, action, user, uid, home))  # type: ignore[arg-type]
    assert lka.sent == [ForwardMissing(3, state, why)]


def test_who_hangs_means_later(root: Fixture) -> None:
    root.hanging = True
    refused = MdaWorkerRefused(1, True, "Temporary failure in user lookup")
    assert root.ask("maildir", "alice", WorkerKind.USER) == refused
    lka = root.with_lka()
    root.parent.forward_open(lka, ForwardOpen(3, "maildir", "alice", 1000, "/home/alice"))  # type: ignore[arg-type]
    why = "/home/alice/.forward: not opened within 10 seconds"
    assert lka.sent == [ForwardMissing(3, ForwardState.TEMPORARY, why)]
    root.parent.worker_start(root.mda, MdaWorkerStart(1, "virtual", "carol", WorkerKind.USER))  # type: ignore[arg-type]
    asked = lka.sent[-1]
    assert isinstance(asked, UserAsk)
    root.parent.user_told(lka, UserTold(asked.reqid, Found.YES, 5000, 8, "/x"))  # type: ignore[arg-type]
    assert root.mda.sent[-1] == refused
    assert root.parent._workers._asking == {} and root.started == []


def test_a_userbase_names_no_owner_of_another_users_mailbox(
    root: Fixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pysmtpd.base.paths.MAIL_DIRECTORY", str(tmp_path))
    action = Action(name="boxes", method=Method.MBOX, userbase="vusers")
    root.parent.config = replace(CONFIG, actions={"boxes": action})
    lka = root.with_lka()
    root.parent.worker_start(root.mda, MdaWorkerStart(1, "boxes", "root", WorkerKind.MBOX))  # type: ignore[arg-type]
    asked = lka.sent[-1]
    assert isinstance(asked, UserAsk)
    root.parent.user_told(lka, UserTold(asked.reqid, Found.YES, 5000, 5000, "/x"))  # type: ignore[arg-type]
    assert root.mda.sent == [MdaWorkerRefused(1, False, "root is another user of the system")]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode, group", [(0o2775, 8), (0o2775, 0), (0o1777, 8), (0o755, 0)])
def test_the_group_of_the_mail_directory_is_for_dot_locks(
    root: Fixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: int, group: int,
) -> None:
    monkeypatch.setattr("pysmtpd.base.paths.MAIL_DIRECTORY", str(tmp_path))
    monkeypatch.setattr("os.fchown", lambda *_: None)
    tmp_path.chmod(mode)
    found = os.stat_result((stat.S_IFDIR | mode, 0, 0, 1, 0, group, 0, 0, 0, 0))
    monkeypatch.setattr(home.os, "stat", lambda _path: found)  # type: ignore[attr-defined]
    assert isinstance(root.ask("mbox", "alice", WorkerKind.MBOX), MdaWorkerStarted)
    assert root.started[0][:2] == ["1000", "8" if group == 8 else "1000"]


def test_a_name_that_no_system_has(root: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = root.ask("maildir", "a\0b", WorkerKind.USER)
    assert isinstance(refused, MdaWorkerRefused) and not refused.temporary


def test_what_an_alias_leads_to_is_a_users_even_where_the_action_is_mbox(root: Fixture) -> None:
    assert isinstance(root.ask("mbox", "alice", WorkerKind.USER), MdaWorkerStarted)
    refused = MdaWorkerRefused(1, False, "MDA not allowed to deliver to: root")
    assert root.ask("mbox", "root", WorkerKind.USER) == refused


def test_a_worker_that_does_not_leave_is_killed(root: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr("os.kill", lambda pid, number: killed.append((pid, number)))
    root.parent._workers.running[42] = Worker(reqid=7, user="alice")
    root.parent.worker_stop(root.mda, MdaWorkerStop(8))  # type: ignore[arg-type]
    root.parent.worker_stop(root.mda, MdaWorkerStop(7))  # type: ignore[arg-type]
    assert killed == [(42, 9)]


def test_a_worker_that_cannot_be_started_is_a_temporary_failure_and_leaves_no_descriptor(
        root: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []

    def pair() -> tuple[socket.socket, socket.socket]:
        made.extend(socket.socketpair())
        return made[0], made[1]

    def spawn(*_: object) -> int:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("pysmtpd.privsep.workers.pair", pair)
    monkeypatch.setattr("pysmtpd.privsep.spawn.spawn", spawn)
    answer = root.ask("maildir", "alice", WorkerKind.USER)
    assert answer == MdaWorkerRefused(1, True, "Resource temporarily unavailable")
    assert [one.fileno() for one in made] == [-1, -1]


def test_numbers_are_bounded(root: Fixture) -> None:
    root.parent.config = Config(hostname="h", actions=CONFIG.actions, limits=Limits(mda_max_session_per_user=2))
    assert isinstance(root.ask("maildir", "alice", WorkerKind.USER), MdaWorkerStarted)
    assert isinstance(root.ask("maildir", "alice", WorkerKind.USER), MdaWorkerStarted)
    assert root.ask("maildir", "alice", WorkerKind.USER) == MdaWorkerRefused(1, True, "too many deliveries")
    assert isinstance(root.ask("maildir", "vmail", WorkerKind.USER), MdaWorkerStarted)


def test_a_missing_mailbox_is_made_exclusively(
    root: Fixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pysmtpd.base.paths.MAIL_DIRECTORY", str(tmp_path))
    owned: list[tuple[int, int]] = []
    monkeypatch.setattr("os.fchown", lambda fd, uid, gid: owned.append((uid, gid)))
    tmp_path.chmod(0o775)
    gid = tmp_path.stat().st_gid
    assert isinstance(root.ask("mbox", "alice", WorkerKind.MBOX), MdaWorkerStarted)
    assert root.started[0] == ["1000", str(gid or 1000), "/home/alice", "alice", "mbox", str(tmp_path)]
    assert owned == [(1000, gid)]
    assert (tmp_path / "alice").stat().st_mode & 0o777 == 0o600
    victim = tmp_path / "victim"
    (tmp_path / "vmail").symlink_to(victim)
    assert isinstance(root.ask("mbox", "vmail", WorkerKind.MBOX), MdaWorkerStarted)
    assert not victim.exists()


def test_root_gets_our_own_mbox_writer_only(root: Fixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("pysmtpd.base.paths.MAIL_DIRECTORY", str(tmp_path))
    monkeypatch.setattr("os.fchown", lambda fd, uid, gid: None)
    assert isinstance(root.ask("mbox", "root", WorkerKind.MBOX), MdaWorkerStarted)
    assert root.started[0][4] == "mbox"


def test_without_root_there_is_one_user(monkeypatch: pytest.MonkeyPatch) -> None:
    fixture = Fixture(monkeypatch, privileged=False)
    fixture.users[ME] = _entry(ME, os.geteuid() or 4000)
    monkeypatch.setattr("os.geteuid", lambda: fixture.users[ME].pw_uid)
    assert isinstance(fixture.ask("maildir", ME, WorkerKind.USER), MdaWorkerStarted)
    refused = MdaWorkerRefused(1, False, "not root: cannot deliver to vmail")
    assert fixture.ask("maildir", "vmail", WorkerKind.USER) == refused


def test_passwords_of_system_users_are_checked_only_where_a_listener_wants_that(
    root: Fixture, monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ask() -> Message:
        root.parent.auth_start(root.mda, AuthStart(1))  # type: ignore[arg-type]
        return root.mda.sent[-1]

    elsewhere = [Listener(address="a"), Listener(address="b", auth="required", auth_table="creds"),
                 Listener(address="c", auth="required", auth_backend="dovecot", auth_path="/x")]
    root.parent.config = replace(CONFIG, listeners=tuple(elsewhere))
    assert ask() == AuthRefused(1, "no listener authenticates system users")
    root.parent.config = replace(CONFIG, listeners=(*elsewhere, Listener(address="d", auth="optional")))
    for _ in range(AT_ONCE):
        assert ask() == AuthStarted(1)
    assert ask() == AuthRefused(1, "too many at once")
    monkeypatch.setattr("os.waitpid", lambda _pid, _flags: (next(iter(root.parent._passwords.running), 0), 0))
    root.parent._reap()
    assert ask() == AuthStarted(1)


def test_the_end_of_a_worker_is_told(root: Fixture) -> None:
    root.parent._peers[Proc.MDA] = [root.mda]  # type: ignore[list-item]
    root.parent._workers.running[42] = Worker(reqid=7, user="alice")
    assert root.parent._workers.gone(42, 9)
    assert not root.parent._workers.gone(42, 9)
    assert root.mda.sent == [MdaWorkerExited(7, "terminated; signal 9")]
    assert root.parent._workers.running == {}


def test_a_bad_frame_of_a_child_stops_the_daemon(root: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[int] = []
    monkeypatch.setattr(root.parent, "stop", stopped.append)
    peer: Any = root.mda
    peer.proc = Proc.SMTP
    root.parent.peer_lost(peer, "invalid imsg: whatever")
    assert stopped == [1]
