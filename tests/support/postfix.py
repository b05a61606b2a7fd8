"""A real Postfix from Debian's package, unpacked, with its configuration, queue and data in a directory of its own.

Its master needs root.  It runs as two accounts that every Debian has and nothing uses.
"""

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support import debian

OWNER, GROUP, OTHERS = "irc", "uucp", "nobody"
QUEUES = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "public",
          "maildrop", "pid", "saved", "trace")
SERVICES = """\
{listen} inet n - n - {smtpds} smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""
START_TIMEOUT = 20.0


class Postfix:
    """One Postfix; a context manager."""

    def __init__(self, where: Path, port: int, settings: Mapping[str, str] | None = None, *,
                 address: str = "127.0.0.1", smtpds: int = 110) -> None:
        """``settings`` are added to main.cf.  Raises debian.Unavailable."""
        self.master = debian.tool("postfix", "usr/lib/postfix/sbin/master")
        self.where, self.address, self.port = where, address, port
        self.config = where / "config"
        self.log = where / "log"
        self._write(dict(settings or {}), smtpds)
        self.process: subprocess.Popen[bytes] | None = None

    def _write(self, settings: dict[str, str], smtpds: int) -> None:
        where, root = self.where, self.master.root
        for directory in (self.config, where / "queue", where / "data"):
            directory.mkdir(parents=True, exist_ok=True)
        where.chmod(0o755)
        entry = pwd.getpwnam(OWNER)
        os.chown(where / "data", entry.pw_uid, entry.pw_gid)
        for name in QUEUES:
            path = where / "queue" / name
            path.mkdir(exist_ok=True)
            os.chown(path, 0 if name == "pid" else entry.pw_uid, 0)
            path.chmod(0o755 if name == "pid" else 0o700)
        main = {
            "compatibility_level": "3.6", "queue_directory": f"{where}/queue", "data_directory": f"{where}/data",
            "command_directory": f"{root}/usr/sbin", "daemon_directory": f"{root}/usr/lib/postfix/sbin",
            "shlib_directory": f"{root}/usr/lib/postfix", "meta_directory": f"{root}/usr/share/postfix",
            "import_environment": "MAIL_CONFIG LD_LIBRARY_PATH LD_PRELOAD TZ LANG=C MAIL_LOGTAG MAIL_DEBUG",
            "mail_owner": OWNER, "setgid_group": GROUP, "default_privs": OTHERS,
            "maillog_file": str(self.log), "maillog_file_prefixes": str(where),
            "myhostname": "postfix.example", "mydestination": "", "local_recipient_maps": "", "alias_maps": "",
            "alias_database": "", "inet_interfaces": self.address, "inet_protocols": "ipv4",
            "mynetworks": "127.0.0.0/8", "biff": "no",
            **settings,
        }
        text = "".join(f"{name} = {value}\n" for name, value in main.items())
        (self.config / "main.cf").write_text(text, encoding="utf-8")
        services = SERVICES.format(listen=f"{self.address}:{self.port}", smtpds=smtpds)
        (self.config / "master.cf").write_text(services, encoding="utf-8")

    @property
    def environ(self) -> dict[str, str]:
        return {**self.master.env, "MAIL_CONFIG": str(self.config)}

    def start(self, wrapper: tuple[str, ...] = ()) -> None:
        output = open(self.where / "stderr", "ab")  # noqa: SIM115 - lives as long as the process
        with output:
            self.process = subprocess.Popen([*wrapper, self.master.path, "-d", "-c", str(self.config)],
                                            env=self.environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                            start_new_session=True)
        end = time.monotonic() + START_TIMEOUT
        while True:
            with contextlib.suppress(OSError), socket.create_connection((self.address, self.port), 1) as sock:
                sock.settimeout(5)
                if sock.recv(3) == b"220":
                    return
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise debian.Unavailable(f"postfix does not start: {self._last_words()}")
            time.sleep(0.05)

    def _last_words(self) -> str:
        files = [path for path in (self.where / "stderr", self.log) if path.exists()]
        return " | ".join(path.read_text(encoding="utf-8", errors="replace")[-500:] for path in files)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(30)

    def __enter__(self) -> "Postfix":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
