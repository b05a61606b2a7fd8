"""The real daemon, started on free ports in a directory of its own, as root or as somebody without privileges."""

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pysmtpd.base.procs import CHILDREN, Proc
from tests.support import python

START_TIMEOUT = 20.0
STOP_TIMEOUT = 30.0
PRIV = "pysmtpd: [priv]"

T = TypeVar("T")


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody listens on now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as sock:
        sock.bind((address, 0))
        return int(sock.getsockname()[1])


def until(condition: Callable[[], T | None], what: str, timeout: float = 10.0) -> T:
    """The first true value of condition; fails after timeout seconds."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout:.0f}s: {what}")
        time.sleep(0.01)


def system_users() -> dict[str, str]:
    """Names for the daemon's two users, as its environment variables: the real ones where they exist."""
    with contextlib.suppress(KeyError):
        if pwd.getpwnam("_smtpd") and pwd.getpwnam("_smtpq"):
            return {}
    # Two accounts that every Debian has, and nothing uses.
    return {"PYSMTPD_USER": "uucp", "PYSMTPD_QUEUE_USER": "news"}


def scratch() -> Path:
    """A new directory on a disk, that every user may pass through."""
    path = Path(tempfile.mkdtemp(prefix="pysmtpd-", dir=os.environ.get("PYSMTPD_TEST_DIR") or "/var/tmp"))
    path.chmod(0o711)
    return path


class Daemon:
    """One daemon.  ``with Daemon(config) as daemon`` starts it and takes everything down again."""

    def __init__(self, config: str, *, user: str = "", arguments: Sequence[str] = ("-v",),
                 environ: Mapping[str, str] | None = None, where: Path | None = None,
                 wrapper: Sequence[str] = (), stdin: bytes = b"") -> None:
        """``config`` is the text of smtpd.conf.  ``user``: somebody else than the caller, who must be root then."""
        self.user = user
        self.where = where or scratch()
        self.state = self.where / "state"
        self.arguments = list(arguments)
        self.wrapper = list(wrapper)   # a command that runs the daemon: strace
        self.environ = {"PATH": os.environ["PATH"], **(system_users() if self.privileged else {}), **(environ or {})}
        self.stdin = stdin             # what the daemon reads there
        self.process: subprocess.Popen[bytes] | None = None
        self.config = self.where / "smtpd.conf"
        self.config.write_text(config, encoding="utf-8")
        self.config.chmod(0o644)
        self._make_state()

    @property
    def privileged(self) -> bool:
        return os.geteuid() == 0 and not self.user

    @property
    def owner(self) -> pwd.struct_passwd:
        """Whom the parent runs as."""
        return pwd.getpwnam(self.user) if self.user else pwd.getpwuid(os.geteuid())

    @property
    def socket(self) -> Path:
        return self.state / "smtpd.sock"

    @property
    def log(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.where / "log").read_text(encoding="utf-8", errors="replace")
        return ""

    def _make_state(self) -> None:
        if not self.state.exists():
            self.state.mkdir()
            self.state.chmod(0o711)
            os.chown(self.state, self.owner.pw_uid, self.owner.pw_gid)

    @property
    def python(self) -> str:
        return python.readable() if self.user else sys.executable

    def command(self, *more: str) -> list[str]:
        return [*self.wrapper, self.python, "-I", "-m", "pysmtpd", *more, "--state-dir", str(self.state),
                "-f", str(self.config)]

    def _popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        entry = self.owner
        with open(self.where / "log", "ab") as log, tempfile.TemporaryFile() as stdin:
            stdin.write(self.stdin)
            stdin.seek(0)
            return subprocess.Popen(
                command, cwd="/", env={**self.environ, "HOME": str(self.where)}, stdin=stdin, stdout=log,
                stderr=log, start_new_session=True, user=entry.pw_uid if self.user else None,
                group=entry.pw_gid if self.user else None, extra_groups=[] if self.user else None)

    def start(self, *, wait: bool = True) -> "Daemon":
        before = len(self.log)
        self.process = self._popen(self.command("-d", *self.arguments))
        if wait:
            self.wait_ready(before)
        return self

    def wait_ready(self, since: int = 0) -> None:
        assert self.process is not None
        end = time.monotonic() + START_TIMEOUT
        while "info: ready" not in self.log[since:]:
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the daemon does not start (status {self.process.poll()}):\n{self.log[since:]}")
            time.sleep(0.01)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The daemon's program to its end: for -n, and for starts that must fail."""
        entry = self.owner if self.user else None
        return subprocess.run(
            [self.python, "-I", "-m", "pysmtpd", *arguments], cwd="/", env=self.environ, capture_output=True, text=True,
            timeout=START_TIMEOUT, check=False, user=entry.pw_uid if entry else None,
            group=entry.pw_gid if entry else None, extra_groups=[] if entry else None)

    def smtpctl(self, *arguments: str, data: bytes = b"", check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """smtpctl as the daemon's own user."""
        return run_smtpctl("smtpctl", ["--state-dir", str(self.state), *arguments], data=data, check=check,
                           user=self.user)

    @property
    def pid(self) -> int:
        """Of the parent, also under a wrapper."""
        assert self.process is not None
        if not self.wrapper:
            return self.process.pid
        return next(pid for pid in (self.process.pid, *descendants(self.process.pid)) if title(pid) == PRIV)

    def pids(self) -> dict[Proc, int]:
        """The running processes of the daemon; home comes when it is needed."""
        names = {f"pysmtpd: {proc.value}": proc for proc in (*CHILDREN, Proc.HOME)}
        found = {Proc.PARENT: self.pid}
        for pid in descendants(self.pid):
            if title(pid) in names:
                found[names[title(pid)]] = pid
        return found

    def every_pid(self) -> list[int]:
        """Workers and several of a kind too."""
        return [self.pid, *descendants(self.pid)]

    def kill(self, proc: Proc) -> None:
        """kill -9."""
        os.kill(self.pids()[proc], signal.SIGKILL)

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """The exit status, once all of it has ended."""
        assert self.process is not None
        return self.process.wait(timeout)

    def stop(self) -> int:
        """An orderly stop; its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
        return self.wait()

    def until_logged(self, pattern: str, timeout: float = 15.0) -> re.Match[str]:
        """The first match of a regular expression in the log."""
        compiled = re.compile(pattern, re.MULTILINE)
        try:
            return until(lambda: compiled.search(self.log), pattern, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; the log:\n{self.log[-6000:]}") from None

    def remove(self) -> None:
        """Take everything down, whatever state it is in, and delete it."""
        if self.process is not None and self.process.poll() is None:
            everyone = descendants(self.process.pid)
            with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError, StopIteration):
                self.stop()
            if self.process.poll() is None:
                for pid in (self.process.pid, *everyone):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.process.wait(STOP_TIMEOUT)
        shutil.rmtree(self.where, ignore_errors=True)

    def __enter__(self) -> "Daemon":
        try:
            return self.start()
        except BaseException:
            self.remove()
            raise

    def __exit__(self, *_: object) -> None:
        self.remove()


def run_smtpctl(name: str, arguments: Sequence[str], *, data: bytes = b"", check: bool = True, user: str = "",
                environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """smtpctl under one of its names, as another user if wanted (the caller must be root then)."""
    program = "import sys; sys.argv = sys.argv[1:]; from smtpctl.__main__ import main; sys.exit(main())"
    command = [python.readable() if user else sys.executable, "-I", "-c", program, name, *arguments]
    entry = pwd.getpwnam(user) if user else None
    env = {"PATH": os.environ["PATH"]} if environ is None else dict(environ)
    done: subprocess.CompletedProcess[bytes] = subprocess.run(
        command, cwd="/", env=env, input=data, capture_output=True, timeout=60, check=False,
        user=entry.pw_uid if entry else None, group=entry.pw_gid if entry else None,
        extra_groups=[] if entry else None)
    assert not check or done.returncode == 0, f"{name} {' '.join(arguments)}: {done.returncode}: {done.stderr.decode()}"
    return done


def title(pid: int) -> str:
    """What ps shows."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode("utf-8", "replace")
    return ""


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        for child in map(int, children):
            found += [child, *descendants(child)]
    return found


def alive(pid: int) -> bool:
    """Whether it runs; a zombie does not, and an orphan may stay one where process 1 does not reap."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(") ")[2][0] != "Z"
    return False


def memory(pid: int, key: str) -> int:
    """A figure of /proc/PID/status or smaps_rollup in octets: VmHWM, VmRSS, Pss."""
    file = "smaps_rollup" if key == "Pss" else "status"
    text = Path(f"/proc/{pid}/{file}").read_text(encoding="ascii", errors="replace")
    found = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None, f"no {key} of {pid}"
    return int(found.group(1)) * 1024
