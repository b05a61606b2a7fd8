"""Tables in text files."""

import os
import stat

from pysmtpd.lookup.service import TableError
from pysmtpd.lookup.table_static import Held, StaticTable
from pysmtpd.maps import BadMap
from pysmtpd.maps.text import FILE_MAX, decode, parse


class FileTable(StaticTable):
    """A static table whose entries come from a file."""

    def __init__(self, name: str, path: str, delimiter: str = "+") -> None:
        """Raises TableError when the file cannot be used."""
        super().__init__(name, delimiter=delimiter)
        self.path = path
        self._is_list: bool | None = None
        self.reload()

    def read(self) -> Held:
        """What the file holds now, ready to be asked; for a thread, if it may be large.

        Raises TableError."""
        try:
            with open(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise TableError(f"{self.path}: not a regular file")
                data = file.read(FILE_MAX + 1)
        except OSError as error:
            raise TableError(f"{self.path}: {error.strerror}") from None
        if len(data) > FILE_MAX:
            raise TableError(f"{self.path}: larger than {FILE_MAX} octets")
        try:
            content = parse(decode(data), self.path, self._is_list)
        except BadMap as error:
            raise TableError(str(error)) from None
        if content.is_list is not None:
            # Whether it is a list was checked against its use when the configuration was read.
            self._is_list = content.is_list
        return self.prepare(content.entries, content.lines)

    def reload(self) -> None:
        """Read the file.  Raises TableError, and then keeps what was there before."""
        self.install(self.read())

    def where(self, key: str) -> str:
        """The place of the entry with this key."""
        line = self.line(key)
        return f"{self.path}:{line}" if line else self.path
