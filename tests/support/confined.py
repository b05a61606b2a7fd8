"""Servers of Debian's packages whose paths and accounts are built in: they run where these seem to be there.

A mount namespace of its own shows each the system with its package installed and its accounts known.  Needs root.
"""

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support import debian
from tests.support.daemon import descendants

START_TIMEOUT = 20.0
STOP_TIMEOUT = 10.0


def wait_listening(port: int, process: subprocess.Popen[bytes], what: str) -> None:
    """Until something greets.  Raises Unavailable."""
    end = time.monotonic() + START_TIMEOUT
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as sock:
            sock.settimeout(5)
            if sock.recv(3) == b"220":
                return
        time.sleep(0.02)
    raise debian.Unavailable(f"{what} does not start")


class Confined:
    """One such server; a context manager."""

    package = ""
    program = ""
    accounts: Mapping[str, int] = {}

    def __init__(self, where: Path, port: int) -> None:
        """``where`` is a directory for it alone.  Raises debian.Unavailable."""
        if os.geteuid() != 0:
            raise debian.Unavailable(f"{self.package} needs root")
        self.root = debian.tool(self.package, self.program.lstrip("/")).root
        self.where, self.port = where, port
        self.process: subprocess.Popen[bytes] | None = None
        (where / "etc").mkdir(parents=True)
        where.chmod(0o755)
        self._know_accounts()

    def _know_accounts(self) -> None:
        known = {entry.pw_name for entry in pwd.getpwall()}
        for file, line in (("passwd", "{0}:x:{1}:{1}::/nonexistent:/usr/sbin/nologin\n"), ("group", "{0}:x:{1}:\n")):
            text = Path("/etc", file).read_text(encoding="utf-8")
            text += "".join(line.format(name, uid) for name, uid in self.accounts.items() if name not in known)
            (self.where / "etc" / file).write_text(text, encoding="utf-8")

    def mounts(self) -> list[str]:
        """Commands of sh, before it starts."""
        roots = {"/etc": self.where / "etc"} | ({"/usr": self.root / "usr"} if self.root != Path("/") else {})
        return [f'mount -t overlay overlay -o lowerdir="{lower}:{place}" {place}' for place, lower in roots.items()]

    def command(self) -> list[str]:
        raise NotImplementedError

    @property
    def log(self) -> str:
        return (self.where / "log").read_text(encoding="utf-8", errors="replace")

    def start(self, wrapper: Sequence[str] = ()) -> None:
        script = "\n".join(["set -e", "mount --make-rprivate /", *self.mounts(), 'exec "$@"'])
        with open(self.where / "log", "ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", script, "sh", *wrapper, *self.command()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_listening(self.port, self.process, self.package)
        except debian.Unavailable as why:
            self.stop()
            raise debian.Unavailable(f"{why}: {self.log[-300:]}") from None

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        family = (self.process.pid, *descendants(self.process.pid))
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_TIMEOUT)
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(STOP_TIMEOUT)

    def __enter__(self) -> "Confined":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class OpenSmtpd(Confined):
    """OpenSMTPD, with this configuration."""

    package = "opensmtpd"
    program = "/usr/sbin/smtpd"
    accounts = {"opensmtpd": 64025, "opensmtpq": 64026}

    def __init__(self, where: Path, port: int, config: str) -> None:
        super().__init__(where, port)
        (where / "spool").mkdir()
        (where / "run").mkdir()
        (where / "etc" / "smtpd.conf").write_text(config, encoding="utf-8")

    def mounts(self) -> list[str]:
        return [*super().mounts(), f"mount --bind {self.where}/spool /var/spool",
                "mount -t tmpfs -o mode=755 tmpfs /var/lib", f"mount --bind {self.where}/run /run",
                "mkdir -p /var/lib/opensmtpd/empty", "install -d -m 0711 /var/spool/smtpd"]

    def command(self) -> list[str]:
        return [self.program, "-d", "-f", "/etc/smtpd.conf"]


class Exim(Confined):
    """Exim, with these settings and this rest of its configuration."""

    package = "exim4-daemon-light"
    program = "/usr/sbin/exim4"
    accounts = {"Debian-exim": 64027}

    def __init__(self, where: Path, port: int, config: str) -> None:
        super().__init__(where, port)
        for name in ("spool", "exim-log"):
            (where / name).mkdir()
            os.chown(where / name, 64027, 64027)
        (where / "etc" / "exim4").mkdir()
        (where / "etc" / "exim4" / "exim4.conf").write_text(f"""\
primary_hostname = exim.example
exim_path = {self.program}
spool_directory = {where}/spool
log_file_path = {where}/exim-log/%slog
pid_file_path = {where}/spool/pid
local_interfaces = 127.0.0.1
tls_advertise_hosts =
host_lookup =
keep_environment =
{config}""", encoding="utf-8")

    @property
    def log(self) -> str:
        files = [self.where / "log", *sorted((self.where / "exim-log").glob("*log"))]
        return "".join(path.read_text(encoding="utf-8", errors="replace") for path in files)

    def command(self) -> list[str]:
        return [self.program, "-bdf", "-q2s", "-oX", f"127.0.0.1:{self.port}"]
