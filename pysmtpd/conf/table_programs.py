"""The programs behind tables: where they are, and how they are started."""

import errno
import shlex

from pysmtpd.conf.config import Processor, Table, TableProgram
from pysmtpd.conf.diagnostic import about, did_you_mean, shown
from pysmtpd.conf.draft import Draft
from pysmtpd.conf.lexer import Token
from pysmtpd.conf.source import Source

BACKENDS = ("static", "file", "db", "getpwnam")
# Programs that come with the daemon, by back end; each takes the path of its configuration.
BUILT_IN = ("sqlite",)
# Where other programs behind tables are installed.
LIBEXEC = ("/usr/libexec/opensmtpd", "/usr/lib/opensmtpd", "/usr/libexec/smtpd", "/usr/local/libexec/opensmtpd",
           "/usr/local/libexec/smtpd", "/usr/lib/x86_64-linux-gnu/opensmtpd", "/usr/lib/aarch64-linux-gnu/opensmtpd")


class TablePrograms:
    """Finds the program of a table; what is wrong with it goes to the errors of the draft."""

    def __init__(self, draft: Draft, source: Source, user: str) -> None:
        """user: without root the one user there is; else empty."""
        self._draft = draft
        self._source = source
        self._user = user

    def add(self, table: Table, token: Token) -> bool:
        """Whether the table has a program that can be started."""
        program = self._find(table, token)
        if program is not None:
            self._draft.table_programs[table.name] = program
        return program is not None

    def _find(self, table: Table, token: Token) -> TableProgram | None:
        if table.backend in ("proc", "proc-exec"):
            return self._command(table, token)
        if table.backend in BUILT_IN:
            if not table.path:
                return self._refuse(token, f"the backend {table.backend} needs the path of its configuration",
                                   f"write {table.backend}:/path")
            if self._absent(table.path):
                self._draft.warnings.append(about(token, f"{table.path}: No such file or directory: look-ups in table "
                                                  f"{shown(table.name)} will fail for now", warning=True))
            return TableProgram(table=table.name, built_in=table.backend, arguments=(table.path,), at=table.at)
        return self._installed(table, token)

    def _installed(self, table: Table, token: Token) -> TableProgram | None:
        """As OpenSMTPD has them: table-BACKEND, called by the name of the table."""
        program = f"table-{table.backend}"
        found = [f"{place}/{program}" for place in LIBEXEC if not self._absent(f"{place}/{program}")]
        if "/" in table.backend or not found:
            near = did_you_mean(table.backend, (*BACKENDS, *BUILT_IN))
            return self._refuse(token, f"backend {shown(table.backend)} does not exist{near}",
                               f"there is no {program} in {LIBEXEC[0]}; packages such as opensmtpd-extras have some")
        arguments = (table.name, table.path) if table.path else (table.name,)
        return TableProgram(table=table.name, path=found[0], arguments=arguments, at=table.at)

    def _command(self, table: Table, token: Token) -> TableProgram | None:
        draft = self._draft
        processor: Processor | None = draft.table_commands.get(table.name)
        if table.name in draft.table_procs:
            processor = draft.processors.get(draft.table_procs[table.name])
            self._takes_effect(draft.table_procs[table.name], processor)
        if processor is None:
            return None            # a proc that does not exist was told of elsewhere
        if self._user and processor.user not in ("", self._user):
            return self._refuse(token, f"cannot run as {shown(processor.user)}: the daemon runs without root, as "
                                      f"{self._user}")
        try:
            words = shlex.split(processor.command)
        except ValueError as error:
            return self._refuse(token, f"the command of a table: {str(error).lower()}: {shown(processor.command)}")
        if not words or not words[0].startswith("/"):
            return self._refuse(token, f"the command of a table begins with an absolute path: "
                                      f"{shown(processor.command)}", "it is started without a shell")
        if not processor.chroot and not self._executable(words[0], token):
            return None
        return TableProgram(
            table=table.name, path=words[0], arguments=tuple(words), user=processor.user, group=processor.group,
            chroot=processor.chroot, at=table.at,
        )

    def _takes_effect(self, name: str, processor: Processor | None) -> None:
        """A proc that only tables use does all that it says."""
        if processor is not None and not any(one.proc == name for one in self._draft.filters.values()):
            told = (processor.at, "proc")
            self._draft.not_in_effect = [one for one in self._draft.not_in_effect if one != told]

    def _executable(self, path: str, token: Token) -> bool:
        try:
            found = self._source.stat(path)
        except PermissionError:
            return True            # the program's user may be allowed more
        except OSError as error:
            self._refuse(token, f"{path}: {error.strerror}")
            return False
        if not found.is_file or not found.mode & 0o111:
            self._refuse(token, f"{path} is no program")
            return False
        return True

    def _absent(self, path: str) -> bool:
        try:
            self._source.stat(path)
        except OSError as error:
            return error.errno in (errno.ENOENT, errno.ENOTDIR)
        return False

    def _refuse(self, token: Token, message: str, *notes: str) -> TableProgram | None:
        """There is none, and why."""
        self._draft.errors.append(about(token, message, notes))
        return None
