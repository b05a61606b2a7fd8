"""The walls: what the kernel says of each process is what base/procs.py declares."""

import os
import pwd
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import trustme

from pysmtpd.base.procs import CHILDREN, PROCS, Jail, Proc, User
from pysmtpd.imsg import HEADER
from tests.e2e.conftest import Start
from tests.support import mail
from tests.support.daemon import Daemon, alive, descendants, system_users, title, until

CANARIES = {"keys": "", "queue": "canary-queue-key-0123456789abcde",
            "credentials": "canary-credential-4711", "srs": "canary-srs-secret-4712"}

pytestmark = pytest.mark.root


@pytest.fixture
def user() -> str:
    return ""


@pytest.fixture
def daemon(start: Start, port: int) -> Daemon:
    return start(f'listen on 127.0.0.1 port {port}\naction "local" mbox\nmatch for local action "local"\n')


def account(user: User) -> pwd.struct_passwd:
    names = system_users()
    name = {User.SMTPD: names.get("PYSMTPD_USER", "_smtpd"), User.SMTPQ: names.get("PYSMTPD_QUEUE_USER", "_smtpq"),
            User.ROOT: "root"}[user]
    return pwd.getpwnam(name)


def status(pid: int, key: str) -> list[str]:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    found = re.search(rf"^{key}:\s*(.*)$", text, re.MULTILINE)
    assert found is not None, key
    return found.group(1).split()


@pytest.mark.parametrize("proc", [Proc.PARENT, *CHILDREN], ids=lambda proc: proc.value)
def test_title_user_groups_and_jail(daemon: Daemon, proc: Proc) -> None:
    pid = daemon.pids()[proc]
    role = PROCS[proc]
    entry = account(role.user)
    assert title(pid) == ("pysmtpd: [priv]" if proc is Proc.PARENT else f"pysmtpd: {proc.value}")
    assert status(pid, "Uid") == [str(entry.pw_uid)] * 4
    assert status(pid, "Gid") == [str(entry.pw_gid)] * 4
    if proc is not Proc.PARENT:
        assert status(pid, "Groups") == [str(entry.pw_gid)]
        assert status(pid, "NoNewPrivs") == ["1"]
        assert status(pid, "CapEff") == status(pid, "CapPrm") == ["0" * 16]
    jails = {Jail.NONE: "/", Jail.EMPTY: str(daemon.state / "empty"), Jail.SPOOL: str(daemon.state)}
    assert os.readlink(f"/proc/{pid}/root") == jails[role.jail]


def test_the_empty_directory_is_empty_and_roots(daemon: Daemon) -> None:
    found = (daemon.state / "empty").stat()
    assert (found.st_uid, found.st_mode & 0o777, os.listdir(daemon.state / "empty")) == (0, 0o755, [])


def test_only_queue_has_files_of_the_spool(daemon: Daemon) -> None:
    for proc, pid in daemon.pids().items():
        files = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()}
        in_spool = sorted(file for file in files if "/queue/" in file)
        assert (in_spool != []) == (proc is Proc.QUEUE), (proc, in_spool)


def test_no_two_processes_share_a_memory_layout(daemon: Daemon) -> None:
    bases = {}
    for proc, pid in daemon.pids().items():
        lines = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines()
        libc = next(line for line in lines if "libc.so" in line or "libc-" in line)
        stack = next(line for line in lines if "[stack]" in line)
        bases[proc] = (lines[0].split("-")[0], libc.split("-")[0], stack.split("-")[0])
    for column in range(3):
        values = [one[column] for one in bases.values()]
        if column == 0 and len(set(values)) == 1 and int(values[0], 16) < 0x1000000:
            continue                   # an interpreter that is not position independent
        assert len(set(values)) == len(values), bases


def test_no_process_can_be_had_by_another(daemon: Daemon) -> None:
    """Not dumpable: even the same user may not look into it."""
    for proc, pid in daemon.pids().items():
        if proc is not Proc.PARENT:
            assert Path(f"/proc/{pid}/mem").stat().st_uid == 0, proc


def scan(pid: int, needle: bytes) -> bool:
    """Whether the bytes are in a process's memory."""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        for line in maps:
            span, rights = line.split()[:2]
            if not rights.startswith("rw"):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            try:
                mem.seek(start)
                if needle in mem.read(end - start):
                    return True
            except (OSError, ValueError, OverflowError):
                continue
    return False


def test_secrets_are_only_where_they_are_needed(start: Start, port: int, where: Path) -> None:
    """A private key, a password of a relay and an SRS secret, looked for in the memory of every process."""
    certificate = trustme.CA().issue_cert("mx.example")
    key = certificate.private_key_pem.bytes()
    (where / "key.pem").write_bytes(key)
    (where / "key.pem").chmod(0o600)
    certificate.cert_chain_pems[0].write_to_path(str(where / "cert.pem"))
    (where / "cert.pem").chmod(0o644)
    middle = key.split(b"\n")[2]       # base64 from inside the key
    daemon = start(
        f'srs key "{CANARIES["srs"]}"\nqueue encryption "{CANARIES["queue"]}"\n'
        f'pki mx.example cert "{where}/cert.pem"\npki mx.example key "{where}/key.pem"\n'
        f'table creds {{ label = "user:{CANARIES["credentials"]}" }}\n'
        f'listen on 127.0.0.1 port {port} tls pki mx.example\n'
        'action "out" relay host smtps://label@127.0.0.1:1 auth <creds>\nmatch from any for any action "out"\n')
    mail.send(port, "x@far.example", "secrets")
    daemon.until_logged("mta delivery")
    needles = {"keys": middle, "credentials": CANARIES["credentials"].encode(), "srs": CANARIES["srs"].encode(),
               "queue": CANARIES["queue"].encode()}
    for proc, pid in daemon.pids().items():
        for kind, needle in needles.items():
            if kind not in PROCS[proc].secrets:
                assert not scan(pid, needle), f"{kind} in the memory of {proc.value}"
    assert scan(daemon.pids()[Proc.LKA], needles["credentials"]), "the search itself does not work"
    assert scan(daemon.pids()[Proc.QUEUE], needles["queue"]), "nothing can be encrypted"


def test_a_message_off_its_route_is_refused_on_the_wire(daemon: Daemon) -> None:
    """smtp may not tell the scheduler anything: a frame of a client's that only queue may send ends that client."""
    from pysmtpd import imsg
    from pysmtpd.messages import QueueDone

    frame = imsg.Encoder(Proc.QUEUE, Proc.SCHEDULER, 1).encode(QueueDone([1], 1))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(daemon.socket))
        sock.settimeout(10)
        sock.sendall(frame)
        assert sock.recv(100) == b""
    daemon.until_logged("client sent invalid imsg over control socket")
    assert set(daemon.pids()) == {Proc.PARENT, *CHILDREN}
    assert HEADER.size == 16


def test_in_the_background_nobody_holds_the_terminal(where: Path, port: int) -> None:
    """Somebody types there long after the daemon was started."""
    daemon = Daemon(f'listen on 127.0.0.1 port {port}\naction "local" mbox\nmatch for local action "local"\n',
                    where=where)
    ours, terminal = os.openpty()
    try:
        started = subprocess.run(daemon.command(), stdin=terminal, stdout=terminal, stderr=terminal, cwd="/",
                                 start_new_session=True, env=daemon.environ, timeout=30, check=False)
        parent = int((daemon.state / "smtpd.lock").read_text(encoding="ascii"))
        try:
            assert started.returncode == 0
            for pid in (parent, *descendants(parent)):
                held = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
                assert os.ttyname(terminal) not in held, title(pid)
        finally:
            os.kill(parent, signal.SIGTERM)
            until(lambda: not alive(parent), "its end", 30)
    finally:
        os.close(ours)
        os.close(terminal)


def test_started_without_standard_descriptors(where: Path, port: int) -> None:
    """A listener that became descriptor 2 would be where the log is written to."""
    daemon = Daemon(f'listen on 127.0.0.1 port {port}\naction "local" mbox\nmatch for local action "local"\n',
                    where=where)
    command = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *daemon.command("-d", "-v")]
    with subprocess.Popen(command, cwd="/", env=daemon.environ, start_new_session=True) as process:
        try:
            until(lambda: (daemon.state / "smtpd.sock").exists() and len(descendants(process.pid)) == len(CHILDREN),
                  "its children")
            for pid in (process.pid, *descendants(process.pid)):
                assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}, title(pid)
            with socket.create_connection(("127.0.0.1", port), 10) as sock:
                assert sock.recv(4) == b"220 "
        finally:
            process.terminate()
            assert process.wait(30) == 0


def test_workers_are_the_recipients(start: Start, port: int, where: Path) -> None:
    box = where / "box"
    box.mkdir(mode=0o700)
    nobody = pwd.getpwnam("nobody")
    os.chown(box, nobody.pw_uid, nobody.pw_gid)
    daemon = start(f'listen on 127.0.0.1 port {port}\naction "local" maildir "{box}/m"\n'
                   'match from any for local action "local"\n')
    mail.send(port, "nobody@localhost", "worker")
    until(lambda: mail.maildir(box / "m"), "the message")
    known = set(daemon.pids().values())
    [worker] = [pid for pid in daemon.every_pid() if pid not in known]
    assert status(worker, "Uid") == [str(nobody.pw_uid)] * 4
    assert status(worker, "Gid") == [str(nobody.pw_gid)] * 4
    assert status(worker, "Groups") == [str(nobody.pw_gid)]
    home = daemon.pids()[Proc.HOME]    # who said who the recipient is
    assert status(home, "NoNewPrivs") == ["1"] and Path(f"/proc/{home}/mem").stat().st_uid == 0
    assert len(list(Path(f"/proc/{home}/fd").iterdir())) == 4
    assert "_asyncio" not in Path(f"/proc/{home}/maps").read_text(encoding="utf-8")
    maps = Path(f"/proc/{worker}/maps").read_text(encoding="utf-8")
    assert "libssl" not in maps and "_ssl" not in maps and "_asyncio" not in maps
