"""The programs behind the tables of a file, which run as long as one question takes: with the daemon's rights, or
without root with those of the caller."""

import asyncio
import os
import sys
import time
from typing import TYPE_CHECKING

from pysmtpd.lookup.table_slow import SlowTable
from pysmtpd.privsep import startup
from pysmtpd.privsep.programs import NotStarted, Programs

if TYPE_CHECKING:
    from pysmtpd.conf.config import Config
    from pysmtpd.lookup.table import Tables


class TablePrograms:
    """A lookup.keeper.Keeper, and a context in which they run."""

    def __init__(self, config: "Config") -> None:
        self._config = config
        self._programs: Programs | None = None
        self._why = ""
        self._tables: Tables | None = None
        self._over = False
        try:
            self._programs = Programs(startup.identities(os.environ))
        except startup.StartError as error:
            self._why = str(error)

    def begin(self, tables: "Tables") -> None:
        """Start them."""
        self._tables = tables
        for table in tables:
            if isinstance(table, SlowTable):
                table.start(asyncio.get_running_loop())

    def end(self) -> None:
        """No more questions."""
        self._over = True
        if self._programs is not None:
            self._programs.stop_all()

    # lookup.keeper

    def start_program(self, table: str) -> None:
        """Start one: the table hears of it."""
        assert self._tables is not None
        asked = self._tables.get(table)
        assert isinstance(asked, SlowTable)
        program = self._config.table_programs.get(table)
        try:
            if self._programs is None or program is None:
                raise NotStarted(self._why or "no such program")
            started = self._programs.start(program)
        except NotStarted as failure:
            asked.refused(str(failure))
            return
        asked.begun(started.socket.detach(), errors=False)
        asked.begun(started.errors, errors=True)

    def stop_program(self, table: str) -> None:
        """End one."""
        if self._programs is not None:
            self._programs.stop(table)

    def tell(self, text: str) -> None:
        """What a program says, or does wrong, is part of the answer."""
        if not self._over:
            print(f"smtpctl: {text}", file=sys.stderr)

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()
