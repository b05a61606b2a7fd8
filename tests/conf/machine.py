"""A machine for smtpd.conf to be read on: files, interfaces and names in memory."""

import errno
import fnmatch
import os

from pysmtpd.conf.load import Loaded, load
from pysmtpd.conf.source import FILE_MAX, Certificate, Stat

PATH = "smtpd.conf"
NOW = 1_800_000_000                # 2027-01-15


class Machine:
    """A conf.source.Source.  A file without owner and mode belongs to root and has mode 0600."""

    def __init__(self, text: str | bytes = "", **files: str | bytes) -> None:
        self.files: dict[str, bytes] = {}
        self.stats: dict[str, Stat] = {}
        self.secret: set[str] = set()
        self.certificates: dict[tuple[str, str], Certificate | None] = {}
        self.obstacles: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []
        self.name = "mail.example.org"
        self.uid = 0
        self.addresses = {
            "lo": ["127.0.0.1", "::1"],
            "eth0": ["192.0.2.2", "2001:db8::2", "fe80::2%eth0"],
            "eth1": ["198.51.100.7"],
        }
        self.hosts: dict[str, list[str] | None] = {"localhost": ["127.0.0.1", "::1"], "nowhere.example": []}
        self.put(PATH, text)
        for path in ("/etc/cert.pem", "/etc/key.pem", "/etc/ca.pem"):
            self.put(path, "x")

    def put(self, path: str, text: str | bytes, uid: int = 0, mode: int = 0o600) -> None:
        self.files[path] = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
        self.stats[path] = Stat(uid, mode, True)

    def read(self, path: str, limit: int = FILE_MAX) -> bytes:
        self.stat(path)
        if path in self.secret:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return self.files[path][:limit]

    def stat(self, path: str) -> Stat:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self.stats[path]

    def glob(self, pattern: str) -> list[str]:
        return sorted(path for path in self.files if fnmatch.fnmatchcase(path, pattern))

    def interfaces(self) -> dict[str, list[str]]:
        return self.addresses

    def hostname(self) -> str:
        return self.name

    def resolve(self, name: str) -> list[str] | None:
        return self.hosts.get(name)

    def service(self, name: str) -> int | None:
        return {"smtp": 25, "smtps": 465, "submission": 587}.get(name)

    def certificate(self, cert: str, key: str) -> Certificate | None:
        self.read(cert)
        self.read(key)
        return self.certificates.get((cert, key), Certificate(NOW - 86400, NOW + 86400 * 90, fits=True))

    def knows(self, kind: str, names: str) -> bool:
        return "nonsense" not in names

    def obstacle(self, path: str, user: str) -> str:
        self.asked.append((path, user))
        return self.obstacles.get(path, "")

    def now(self) -> int:
        return NOW

    def user_id(self) -> int:
        return self.uid


RULE = '\nmatch for any reject\n'


def read(text: str | bytes, machine: Machine | None = None, **options: str) -> Loaded:
    """Load a text as smtpd.conf, with a rule after it so that it need not have one."""
    machine = machine or Machine()
    machine.put(PATH, (text if isinstance(text, bytes) else text.encode()) + RULE.encode())
    return load(PATH, machine, **options)  # type: ignore[arg-type]


def errors(text: str | bytes, machine: Machine | None = None) -> list[str]:
    """The first line of each error, without the name of the file."""
    return [str(error).split("\n")[0].removeprefix(f"{PATH}:") for error in read(text, machine).errors]
