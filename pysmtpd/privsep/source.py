"""What smtpd.conf is read from on a real machine."""

import errno
import glob
import os
import socket
import stat
import time
from collections.abc import Iterator
from functools import cached_property

from pysmtpd.base.paths import MAILNAME_FILES
from pysmtpd.conf.source import FILE_MAX, Certificate, Stat
from pysmtpd.privsep import access
from pysmtpd.privsep.groups import groups
from pysmtpd.privsep.interfaces import getifaddrs

HOSTS_FILE = "/etc/hosts"
PEM_MAX = 1024 * 1024
_DESCRIPTORS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/", os.devnull)


class SystemSource:
    """A conf.source.Source of this machine.

    network: whether a name that is not in /etc/hosts may be asked of the resolver; a mere check must not."""

    def __init__(self, *, network: bool = False, hosts: str = HOSTS_FILE) -> None:
        self._network = network
        self._hosts = hosts

    def read(self, path: str, limit: int = FILE_MAX) -> bytes:
        """At most the first octets of a file.  Neither a FIFO nor a device may hold up whoever reads, except what
        the caller passes as a descriptor."""
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if path.startswith(_DESCRIPTORS):
                os.set_blocking(file.fileno(), True)
            elif stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            elif not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, "Not a regular file")
            return file.read(limit)

    def stat(self, path: str) -> Stat:
        found = os.stat(path)
        return Stat(found.st_uid, stat.S_IMODE(found.st_mode), stat.S_ISREG(found.st_mode))

    def glob(self, pattern: str) -> list[str]:
        return sorted(glob.glob(pattern))

    def interfaces(self) -> dict[str, list[str]]:
        return self._interfaces

    @cached_property
    def _interfaces(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, address in getifaddrs():
            found.setdefault(name, []).append(address)
        of_groups = {group: [address for name in names for address in found.get(name, ())]
                     for group, names in groups().items() if group not in found}
        return found | {group: addresses for group, addresses in of_groups.items() if addresses}

    def hostname(self) -> str:
        """The first line of mailname, else the system's name with its domain."""
        for path in MAILNAME_FILES:
            try:
                first = self.read(path, 4096).split(b"\n")[0]
            except OSError:
                continue
            return first.decode("ascii", "replace").strip()
        name = socket.gethostname()
        return name if "." in name else self._canonical(name)

    def _canonical(self, name: str) -> str:
        """A name with its domain, if that can be told."""
        for _, names in self._hosts_lines():
            if name.lower() in (one.lower() for one in names):
                full = next((one for one in names if "." in one), "")
                if full:
                    return full
        if not self._network:
            return name
        try:
            found = socket.getaddrinfo(name, None, flags=socket.AI_CANONNAME)
        except OSError:
            return name
        return found[0][3] or name

    def resolve(self, name: str) -> list[str] | None:
        found = [address for address, names in self._hosts_lines() if name.lower() in (one.lower() for one in names)]
        if found:
            return found
        if not self._network:
            return None
        try:
            answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        except (OSError, UnicodeError):
            return []
        return [str(answer[4][0]) for answer in answers]

    def _hosts_lines(self) -> Iterator[tuple[str, list[str]]]:
        try:
            text = self.read(self._hosts).decode("utf-8", "replace")
        except OSError:
            return
        for line in text.splitlines():
            address, *names = line.partition("#")[0].split() or [""]
            if names:
                yield address, names

    def service(self, name: str) -> int | None:
        try:
            return socket.getservbyname(name, "tcp")
        except (OSError, UnicodeError, ValueError):
            return {"smtp": 25, "smtps": 465, "submission": 587, "submissions": 465}.get(name)

    def user_id(self) -> int:
        return os.geteuid()

    def now(self) -> int:
        return int(time.time())

    def certificate(self, cert: str, key: str) -> Certificate | None:
        from pysmtpd.privsep.certificate import examine

        return examine(cert, self.read(cert, PEM_MAX), key, self.read(key, PEM_MAX))

    def knows(self, kind: str, names: str) -> bool:
        from pysmtpd.privsep.tls_context import knows

        return knows(kind, names)

    def obstacle(self, path: str, user: str) -> str:
        return access.obstacle(path, user)
