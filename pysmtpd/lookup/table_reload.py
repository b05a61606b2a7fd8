"""Tables whose content can be read again while they answer, and who reads them again."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from pysmtpd.base import logline
from pysmtpd.base.logline import Level
from pysmtpd.base.text import line_of, vis
from pysmtpd.lookup.service import TableError
from pysmtpd.lookup.table import Tables
from pysmtpd.lookup.table_slow import SlowTable

WHY_MAX = 512                      # octets


@runtime_checkable
class Reloaded(Protocol):
    """Reading takes time and changes nothing, so that a thread does it; installing takes none."""

    name: str

    def read(self) -> Any:
        """The content as it is now.  Raises TableError."""

    def install(self, content: Any, /) -> None:
        """From now on this is the content."""


class Reloader:
    """Reads tables again, in threads, one after the other for each table."""

    def __init__(self, log: Callable[[str, Level], None]) -> None:
        self.tables = Tables(())
        self._log = log
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[str]] = set()

    async def reload(self, name: str) -> str:
        """Have a table read again; empty, or why its content is the old one."""
        table = self.tables.get(name)
        try:
            if table is None:
                raise TableError(f"no such table: {name}")
            if isinstance(table, Reloaded):
                async with self._locks.setdefault(name, asyncio.Lock()):
                    table.install(await asyncio.get_running_loop().run_in_executor(None, table.read))
            elif isinstance(table, SlowTable):
                await table.update()
        except TableError as error:
            why = line_of(str(error).encode(), WHY_MAX)
            self._log(logline.TABLE_NOT_UPDATED.format(table=vis(name.encode()), why=why), Level.ERR)
            return why
        self._log(logline.TABLE_UPDATED.format(table=vis(name.encode())), Level.INFO)
        return ""

    def later(self, table: Reloaded) -> None:
        """Have it read again, when nobody waits for that."""
        task = asyncio.get_running_loop().create_task(self.reload(table.name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def tell(self, text: str) -> None:
        """A table cannot use its file any more."""
        self._log(f"warn: lka: {line_of(text.encode(), 2 * WHY_MAX)}", Level.ERR)
