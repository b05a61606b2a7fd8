"""Line ends and From_ lines of a body that comes in pieces, by whole buffers."""

_FROM = b"\nFrom "


class Newlines:
    """CRLF to LF; a CR at the end of a piece waits for the next one."""

    def __init__(self) -> None:
        self._cr = False

    def convert(self, chunk: bytes) -> bytes:
        if self._cr:
            chunk = b"\r" + chunk
        self._cr = chunk.endswith(b"\r")
        return (chunk[:-1] if self._cr else chunk).replace(b"\r\n", b"\n")

    def end(self) -> bytes:
        """What is left: a CR that no LF followed."""
        left, self._cr = (b"\r" if self._cr else b""), False
        return left


class Verbatim:
    """Nothing to nothing, for a body that is not text."""

    def convert(self, chunk: bytes) -> bytes:
        return chunk

    def end(self) -> bytes:
        return b""


class FromQuoting:
    """``From `` at the start of a line becomes ``>From ``, so that it is never taken for the next message."""

    def __init__(self) -> None:
        # The body begins a line: search as if a newline had come before it.
        self._held = b"\n"
        self._first = True

    def convert(self, chunk: bytes) -> bytes:
        data = (self._held + chunk).replace(_FROM, b"\n>From ")
        keep = _overlap(data)
        self._held = data[len(data) - keep :]
        data = data[: len(data) - keep]
        return self._drop_first(data)

    def end(self) -> bytes:
        """What was held back because it could have become a From_ line."""
        left, self._held = self._held, b""
        return self._drop_first(left)

    def _drop_first(self, data: bytes) -> bytes:
        if self._first and data:
            self._first = False
            return data[1:]
        return data


def _overlap(data: bytes) -> int:
    """How many of the last octets could begin a From_ line."""
    for size in range(min(len(_FROM) - 1, len(data)), 0, -1):
        if data.endswith(_FROM[:size]):
            return size
    return 0
