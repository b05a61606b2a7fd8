"""The mail servers that are measured, each from its own directory, relaying everything to the sink."""

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from bench.sandbox import Place
from tests.support import debian
from tests.support.daemon import Daemon, descendants, free_port, title
from tests.support.postfix import Postfix

START_TIMEOUT = 20.0
# OpenSMTPD opens one connection to a route in five seconds, and leaves it after 100 messages: in a short run that is
# all one would see.  It is measured without these delays.
UNHURRIED = "".join(f"mta limit {limit}\n" for limit in (
    "conn-delay-route 0", "conn-delay-relay 0", "reconn-delay-route 0", "session-mail-max 1000000"))


class System(Protocol):
    """A mail server."""

    name: str
    durability: str                # when it answers 250
    port: int

    def start(self, wrapper: Sequence[str] = ()) -> None: ...

    def stop(self) -> None: ...

    @property
    def pid(self) -> int:
        """The process above all others."""


def wait_listening(port: int, process: subprocess.Popen[bytes], what: str) -> None:
    end = time.monotonic() + START_TIMEOUT
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as sock:
            sock.settimeout(5)
            if sock.recv(3) == b"220":
                return
        time.sleep(0.02)
    raise debian.Unavailable(f"{what} does not start")


class Ours:
    """pysmtpd."""

    name = "pysmtpd"
    durability = "250 after the commit is on stable storage (fdatasync of SQLite's log)"

    def __init__(self, where: Path, place: Place) -> None:
        self.port = free_port()
        host = f" host smtp+notls://{place.smarthost}" if place.smarthost else ""
        resolver = f"resolver {place.resolver}\n" if place.resolver else ""
        self.config = (
            f'smtp limit max-mails 1000000\n{resolver}listen on 127.0.0.1 port {self.port}\naction "out" relay{host}\n'
            'match from any for any action "out"\n'
        )
        self._where = where
        self._daemon: Daemon | None = None

    def start(self, wrapper: Sequence[str] = ()) -> None:
        where = self._where / "pysmtpd"
        where.mkdir(mode=0o711, exist_ok=True)
        self._daemon = Daemon(self.config, where=where, arguments=(), wrapper=wrapper)
        self._daemon.start(wait=False)
        assert self._daemon.process is not None
        wait_listening(self.port, self._daemon.process, f"pysmtpd ({self._daemon.log[-500:]})")

    def stop(self) -> None:
        if self._daemon is not None:
            self._daemon.remove()

    @property
    def pid(self) -> int:
        assert self._daemon is not None
        return self._daemon.pid


class OfPostfix:
    """Postfix of Debian's package."""

    name = "postfix"
    durability = "250 after fsync of the queue file"

    def __init__(self, where: Path, place: Place) -> None:
        self.port = free_port()
        settings = {
            "smtp_tls_security_level": "none", "smtpd_tls_security_level": "none", "default_process_limit": "100",
            "smtpd_recipient_restrictions": "permit_mynetworks,reject", "smtpd_relay_restrictions": "",
            "smtpd_client_connection_count_limit": "0",
        }
        if place.smarthost:
            host, _, port = place.smarthost.rpartition(":")
            settings["relayhost"] = f"[{host}]:{port}"
        self._postfix = Postfix(where / "postfix", self.port, settings)

    def start(self, wrapper: Sequence[str] = ()) -> None:
        self._postfix.start(tuple(wrapper))

    def stop(self) -> None:
        self._postfix.stop()

    @property
    def pid(self) -> int:
        assert self._postfix.process is not None
        return self._postfix.process.pid


class OfOpenSMTPD:
    """OpenSMTPD of Debian's package.  Its paths and users are built in: it gets a mount namespace that has them."""

    name = "opensmtpd"
    durability = "250 before any sync: a power cut loses what was answered"

    def __init__(self, where: Path, place: Place) -> None:
        if os.geteuid() != 0:
            raise debian.Unavailable("opensmtpd needs root")
        self._tool = debian.tool("opensmtpd", "usr/sbin/smtpd")
        self.port = free_port()
        self._where = where / "opensmtpd"
        (self._where / "spool").mkdir(parents=True)
        (self._where / "run").mkdir()
        host = f" host smtp+notls://{place.smarthost}" if place.smarthost else ""
        (self._where / "smtpd.conf").write_text(
            f'smtp limit max-mails 1000000\n{UNHURRIED}'
            f'listen on 127.0.0.1 port {self.port}\naction "out" relay{host}\nmatch from any for any action "out"\n',
            encoding="ascii")
        self._accounts()
        self._process: subprocess.Popen[bytes] | None = None

    def _accounts(self) -> None:
        users = {"opensmtpd": 64025, "opensmtpq": 64026}
        known = {entry.pw_name for entry in pwd.getpwall()}
        for file, line in (("passwd", "{0}:x:{1}:{1}::/nonexistent:/usr/sbin/nologin\n"), ("group", "{0}:x:{1}:\n")):
            text = Path("/etc", file).read_text(encoding="utf-8")
            text += "".join(line.format(name, uid) for name, uid in users.items() if name not in known)
            (self._where / file).write_text(text, encoding="utf-8")

    def start(self, wrapper: Sequence[str] = ()) -> None:
        base, root = self._where, self._tool.root
        script = "\n".join([
            "set -e", "mount --make-rprivate /",
            f"mount --bind {base}/passwd /etc/passwd", f"mount --bind {base}/group /etc/group",
            f"mount --bind {base}/spool /var/spool", "mount -t tmpfs -o mode=755 tmpfs /var/lib",
            f"mount --bind {base}/run /run", "mkdir -p /var/lib/opensmtpd/empty", "install -d -m 0711 /var/spool/smtpd",
            'exec "$@"',
        ])
        command = ["unshare", "--mount", "sh", "-c", script, "sh", *wrapper, str(root / "usr/sbin/smtpd"), "-d", "-f",
                   str(base / "smtpd.conf")]
        with open(base / "log", "ab") as log:
            self._process = subprocess.Popen(command, env=dict(self._tool.env), stdin=subprocess.DEVNULL, stdout=log,
                                             stderr=log, start_new_session=True)
        try:
            wait_listening(self.port, self._process, "opensmtpd")
        except debian.Unavailable as why:
            self.stop()
            text = (base / "log").read_text(encoding="utf-8", errors="replace")[-300:]
            raise debian.Unavailable(f"{why}: {text}") from None

    def stop(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        family = (self._process.pid, *descendants(self._process.pid))
        for pid in family:
            if title(pid).endswith(": [priv]"):
                os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
            return
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(10)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid


SYSTEMS: dict[str, type[Ours] | type[OfPostfix] | type[OfOpenSMTPD]] = {
    one.name: one for one in (Ours, OfPostfix, OfOpenSMTPD)
}
