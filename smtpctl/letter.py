"""A message as somebody wrote it to our standard input, and as it is handed to the daemon.

The header is read into memory, the body goes to a temporary file unseen.  What is missing is added (From, Date),
what must not leave is taken out (Bcc, Return-Path, an mbox From_ line); everything else stays as it is.
"""

import re
import tempfile
from collections.abc import Iterator
from typing import IO

HEADER_MAX = 1024 * 1024           # octets; what comes behind is body
CHUNK = 65536
_IN_MEMORY = 256 * 1024            # octets of a body kept in memory

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")


class Letter:
    """A message with its header apart.  Header lines end in LF here, and the body has whatever was written."""

    def __init__(self, source: IO[bytes]) -> None:
        self.fields: list[tuple[str, bytes]] = []   # name in lower case, the whole field with its LF
        self._rest = b""
        self._read_header(source)
        self._body: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  (lives as long as we do)
        size, eight = len(self._rest), not self._rest.isascii()
        self._body.write(self._rest)
        while chunk := source.read(CHUNK):
            self._body.write(chunk)
            size += len(chunk)
            eight = eight or not chunk.isascii()
        self._body_size = size
        self._body_8bit = eight

    def _read_header(self, source: IO[bytes]) -> None:
        size = 0
        while size < HEADER_MAX:
            line = source.readline(HEADER_MAX)
            size += len(line)
            text = line.rstrip(b"\r\n")
            if not text:
                return             # the empty line, or the end
            match = _FIELD.match(text)
            if self.fields and text[:1] in (b" ", b"\t"):
                name, field = self.fields[-1]
                self.fields[-1] = (name, field + text + b"\n")
            elif match is not None:
                self.fields.append((match.group(1).decode("ascii").lower(), text + b"\n"))
            elif text.startswith(b"From ") and not self.fields:
                continue           # an mbox separator
            else:
                self._rest = line  # no header line: the body begins here, as it does without any header
                return

    def has(self, name: str) -> bool:
        return any(field == name for field, _ in self.fields)

    def values(self, name: str) -> list[str]:
        """What stands behind the colon of all fields of this name; bytes above 127 survive as surrogates."""
        return [text.partition(b":")[2].decode("utf-8", "surrogateescape") for field, text in self.fields
                if field == name]

    def remove(self, *names: str) -> None:
        self.fields = [(name, field) for name, field in self.fields if name not in names]

    def add(self, name: str, value: str) -> None:
        self.fields.append((name.lower(), f"{name}: {value}\n".encode("utf-8", "surrogateescape")))

    def __enter__(self) -> "Letter":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._body.close()

    @property
    def has_8bit(self) -> bool:
        """Whether there are octets above 127."""
        return self._body_8bit or any(not field.isascii() for _, field in self.fields)

    @property
    def utf8_header(self) -> bool:
        """Whether the header has octets above 127."""
        return any(not field.isascii() for _, field in self.fields)

    @property
    def size(self) -> int:
        """About how many octets there are."""
        return self._body_size + sum(len(field) + 1 for _, field in self.fields) + 2

    def pieces(self) -> Iterator[bytes]:
        """The message as it was written, with what was added and taken out."""
        yield b"".join(field for _, field in self.fields) + b"\n"
        self._body.seek(0)
        while chunk := self._body.read(CHUNK):
            yield chunk

    def mail_data(self) -> Iterator[bytes]:
        """The message for DATA: every line ends in CRLF, dots are doubled, CRLF.CRLF stands at the end
        (RFC 5321 4.5.2).  A lone CR ends a line as well and a NUL is left out: the daemon takes neither."""
        at_start, held = True, b""
        for chunk in self.pieces():
            data = held + chunk
            # The LF of a CRLF may be in the next piece.
            held = b"\r" if data.endswith(b"\r") else b""
            data = data[: len(data) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\0", b"")
            if not data:
                continue
            dotted = data.replace(b"\n.", b"\n..")
            yield (b"." + dotted if at_start and data.startswith(b".") else dotted).replace(b"\n", b"\r\n")
            at_start = data.endswith(b"\n")
        yield b".\r\n" if at_start and not held else b"\r\n.\r\n"
