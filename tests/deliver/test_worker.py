"""The delivery worker, from the outside: a process, frames in, files and results out."""

import ast
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pysmtpd.deliver import worker as module
from pysmtpd.messages import Outcome, WorkerBody
from tests.deliver.support import BODY, WHO, WorkerEnd, ask_for, start


def test_maildir(worker: WorkerEnd, home: Path) -> None:
    result = worker.deliver(ask_for(1, "maildir", f"{home}/Maildir"))
    assert (result.outcome, result.text) == (Outcome.OK, b"Delivered")
    (found,) = (home / "Maildir/new").iterdir()
    assert found.read_bytes() == b"Subject: x\n\nhello\n"
    assert found.stat().st_mode & 0o777 == 0o600 and found.stat().st_uid == WHO[0]


def test_one_delivery_after_the_other(worker: WorkerEnd, home: Path) -> None:
    """The maildir without a path is the one at home."""
    (home / "Broken").write_text("")
    outcomes = [worker.deliver(ask_for(number, "maildir", path)).outcome
                for number, path in enumerate([f"{home}/Maildir", f"{home}/Broken", ""], 1)]
    assert outcomes == [Outcome.OK, Outcome.TEMPFAIL, Outcome.OK]
    assert len(list((home / "Maildir/new").iterdir())) == 2


def test_pieces_and_credit(worker: WorkerEnd, home: Path) -> None:
    worker.send(ask_for(1, "maildir"))
    pieces = [b"a\r", b"\nb\r\n", b"c" * 65536, b"", b"\r\n"]
    for index, piece in enumerate(pieces):
        worker.send(WorkerBody(1, piece, index == len(pieces) - 1))
    assert worker.result().outcome is Outcome.OK
    assert worker.credit == sum(map(len, pieces[:-1]))
    (found,) = (home / "Maildir/new").iterdir()
    assert found.read_bytes() == b"a\nb\n" + b"c" * 65536 + b"\n"


def test_the_rest_cannot_be_had(worker: WorkerEnd, home: Path) -> None:
    worker.send(ask_for(1, "maildir"), WorkerBody(1, BODY, False), WorkerBody(1, b"", True, True))
    result = worker.result()
    assert (result.outcome, result.text) == (Outcome.TEMPFAIL, b"Error reading body")
    assert not list((home / "Maildir/new").iterdir()) and not list((home / "Maildir/tmp").iterdir())
    assert worker.deliver(ask_for(2, "maildir")).outcome is Outcome.OK


def test_it_leaves_when_mda_does(worker: WorkerEnd, home: Path) -> None:
    worker.send(ask_for(1, "maildir"), WorkerBody(1, BODY, False))
    deadline = time.monotonic() + 10
    while not (home / "Maildir/tmp").exists() or not list((home / "Maildir/tmp").iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    worker.sock.close()
    assert worker.wait() == 0
    assert not list((home / "Maildir/tmp").iterdir()), "what is not complete is undone"


def test_it_leaves_a_bad_frame(worker: WorkerEnd) -> None:
    worker.sock.sendall(b"\xff" * 64)
    assert os.waitstatus_to_exitcode(worker.wait()) == 1


def test_a_body_of_no_delivery(worker: WorkerEnd) -> None:
    worker.send(WorkerBody(9, b"x", True))
    assert os.waitstatus_to_exitcode(worker.wait()) == 1


def test_an_mbox_worker_knows_one_mailbox(mbox_worker: WorkerEnd, home: Path) -> None:
    assert mbox_worker.deliver(ask_for(1, "mbox", f"{home}/elsewhere")).outcome is Outcome.OK
    assert (home / "joe").read_bytes().startswith(b"From a@example.org ")
    assert not (home / "elsewhere").exists()


def test_an_mbox_worker_does_nothing_else(mbox_worker: WorkerEnd, home: Path) -> None:
    asked = [("maildir", "/tmp/x", ""), ("file", "/tmp/x", ""), ("mda", "true", ""), ("lmtp", "localhost", ""),
             ("mbox", "", "true")]
    for number, (method, argument, wrapper) in enumerate(asked, 1):
        result = mbox_worker.deliver(ask_for(number, method, argument, wrapper=wrapper))
        assert (result.outcome, result.esc) == (Outcome.PERMFAIL, "5.3.5")
    assert not list(home.iterdir())


def test_a_command_runs_at_home_and_alone(worker: WorkerEnd, home: Path) -> None:
    """Its own session, its environment, no descriptors, default signals."""
    script = "pwd > out; env >> out; ls /proc/self/fd >> out; grep SigIgn /proc/self/status >> out; cat > /dev/null"
    assert worker.deliver(ask_for(1, "mda", script, environment=[("PATH", "/usr/bin:/bin"), ("X", "y z")])).text
    lines = (home / "out").read_text().splitlines()
    assert lines[0] == str(home)
    assert {"X=y z", "PATH=/usr/bin:/bin"} <= set(lines)
    assert not [line for line in lines if line.startswith(("LD_", "HOME=", "LANG="))]
    # ls itself has the directory open as 3.
    assert [line for line in lines if line.isdigit()] == ["0", "1", "2", "3"]
    # 32 and 33 are the C library's own and cannot be asked for.
    assert int(lines[-1].split()[1], 16) & 0x7FFFFFFF == 0


def test_imports(home: Path) -> None:
    """No event loop, no TLS, no DNS; and nothing more is imported once it has become the user."""
    script = (
        "import sys, socket\n"
        "from pysmtpd.deliver import worker\n"
        f"sys.argv = ['worker', '{WHO[0]}', '{WHO[1]}', '{home}', 'joe', 'user', '{home}']\n"
        "before = set()\n"
        "become = worker.become\n"
        "def spy(identity):\n"
        "    before.update(sys.modules); become(identity)\n"
        "def leave(status):\n"
        "    open('modules', 'w').write(repr((sorted(before), sorted(set(sys.modules) - before))))\n"
        "    exit(status)\n"
        "exit, worker.become, worker.os._exit = worker.os._exit, spy, leave\n"
        "worker.main()\n"
    )
    mine, theirs = socket.socketpair()
    with subprocess.Popen([sys.executable, "-c", f"import os; os.dup2({theirs.fileno()}, 3)\n{script}"],
                          pass_fds=(theirs.fileno(), 3)) as process:
        theirs.close()
        end = WorkerEnd(mine, process.pid, home)
        path = "/nowhere.sock"
        jobs = [ask_for(1, "maildir", junk=True, extension="x"), ask_for(2, "mda", "cat; exit 1"),
                ask_for(3, "file", f"{home}/f"), ask_for(4, "lmtp", path), ask_for(5, "lmtp", "localhost:1"),
                ask_for(6, "maildir", wrapper="cat >&3")]
        for job in jobs:
            end.deliver(job)
        mine.close()
        assert process.wait(20) == 0
    before, after = ast.literal_eval((home / "modules").read_text())
    heavy = {"asyncio", "ssl", "OpenSSL", "dns", "cryptography", "sqlite3", "email", "logging", "subprocess"}
    assert not heavy & {name.partition(".")[0] for name in before}
    assert after == []


@pytest.mark.parametrize("arguments", [
    ["0", "0", "/", "joe", "anything", "/var/mail"], ["0", "0", "/", "../joe", "mbox", "/var/mail"],
    ["0", "0", "/", "", "mbox", "/var/mail"], ["x", "0", "/", "joe", "mbox", "/var/mail"], ["0"],
])
def test_arguments(arguments: list[str]) -> None:
    with pytest.raises(ValueError):
        module.parse(arguments)


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root: a worker that gives it up")
def test_root_is_given_up_for_good(worker: WorkerEnd) -> None:
    worker.deliver(ask_for(1, "maildir"))
    status = dict(line.split(":", 1) for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines())
    assert status["Uid"].split() == [str(WHO[0])] * 4
    assert status["Gid"].split() == [str(WHO[1])] * 4
    assert status["Groups"].split() == [str(WHO[1])]
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["Umask"].strip() == "0077"
    assert worker.deliver(ask_for(2, "mda", "id -u; exit 75")).text == b'temporary failure: "65534"'
    assert all(os.readlink(f"/proc/{worker.pid}/fd/{fd}") == "/dev/null" for fd in (0, 1, 2))


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root: a worker that stays it")
def test_root_gets_its_mailbox_and_nothing_else(home: Path) -> None:
    refused = start(home, home, "user", who=(0, 0), user="root")
    assert refused.receive() is None, "a worker of kind user is never root"
    assert os.waitstatus_to_exitcode(refused.wait()) == 1
    mailbox = start(home, home, "mbox", who=(0, 8), user="root")
    try:
        assert mailbox.deliver(ask_for(1, "mbox")).outcome is Outcome.OK
        status = Path(f"/proc/{mailbox.pid}/status").read_text()
        assert "Gid:\t8\t8\t8\t8\n" in status and "Groups:\t8 \n" in status
    finally:
        mailbox.close()
    refused.sock.close()
