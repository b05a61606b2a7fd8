"""The users of the system as a table of userinfo.

getpwnam(3) may block on slow name services, so threads ask it.  Each answer serves for a few seconds.
"""

import asyncio
import pwd
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pysmtpd.lookup.memo import UNKNOWN_YET, Unknown
from pysmtpd.lookup.service import Service, TableError
from pysmtpd.lookup.table_slow import Answer, Question, SlowTable

KEPT = 5.0                         # seconds an answer serves
CACHE_MAX = 4096
NAME_MAX = 255                     # octets


class GetpwnamTable(SlowTable):
    """``<getpwnam>``: a user name gives ``uid:gid:home``."""

    CONCURRENT = 8                 # threads

    def __init__(self, name: str, find: Callable[[str], pwd.struct_passwd | None],
                 clock: Callable[[], float]) -> None:
        """clock: seconds of any kind that only go up."""
        super().__init__(name, "getpwnam")
        self._find = find
        self._clock = clock
        self._kept: dict[str, tuple[float, str | None]] = {}
        self._threads = ThreadPoolExecutor(self.CONCURRENT, "getpwnam")

    def known(self, question: Question) -> Answer | Unknown:
        """What was asked a moment ago; also that users are not enumerated."""
        if question.service is not Service.USERINFO:
            raise TableError(f"table {self.name} has no {question.service.value}")
        if question.operation == "fetch":
            return None
        kept = self._kept.get(question.key)
        if kept is None or kept[0] <= self._clock():
            return UNKNOWN_YET
        return kept[1]

    async def ask(self, question: Question) -> Answer:
        """``uid:gid:home``."""
        name = question.key
        value = await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, name)
        self._kept.pop(name, None)
        if len(self._kept) >= CACHE_MAX:
            del self._kept[next(iter(self._kept))]
        self._kept[name] = (self._clock() + KEPT, value)
        return value

    def _ask(self, name: str) -> str | None:
        if not name or len(name.encode()) > NAME_MAX:
            return None
        try:
            entry = self._find(name)
        except OSError as error:
            raise TableError(f"table {self.name}: {error.strerror}") from None
        return None if entry is None else f"{entry.pw_uid}:{entry.pw_gid}:{entry.pw_dir}"
