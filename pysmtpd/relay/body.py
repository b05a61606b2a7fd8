"""Mail data on its way from the queue to a session, never more than a window of it."""

from collections import deque
from collections.abc import Callable

from pysmtpd.messages import BodyClose, BodyCredit, BodyOpen, QueueBody
from pysmtpd.relay.shell import Shell


class Body:
    """One message's mail data as one session reads it."""

    __slots__ = ("_credit", "arrived", "chunks", "complete", "failed", "reqid")

    def __init__(self, reqid: int, arrived: Callable[[], None], credit: Callable[["Body", int], None]) -> None:
        self.reqid = reqid
        self.chunks: deque[bytes] = deque()
        self.complete = False      # nothing more will come
        self.failed = False
        self.arrived = arrived
        self._credit = credit

    @property
    def at_hand(self) -> bool:
        """Whether all that is left of it is here."""
        return self.complete and not self.failed

    def take(self) -> tuple[bytes, bool]:
        """The next piece, and whether it is the last."""
        chunk = self.chunks.popleft()
        if not self.complete:
            self._credit(self, len(chunk))
        return chunk, self.complete and not self.chunks


class Bodies:
    """All that are being read."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._open: dict[int, Body] = {}

    def open(self, msgid: int, arrived: Callable[[], None], at_hand: bytes = b"") -> Body:
        """``arrived`` is called whenever there is more, and when there will be no more.  ``at_hand``: all of it, if
        it came along with its envelope; then it is not called."""
        if at_hand:
            body = Body(0, arrived, self._credit)
            body.chunks.append(at_hand)
            body.complete = True
            return body
        body = Body(self._shell.new_reqid(), arrived, self._credit)
        self._open[body.reqid] = body
        self._shell.tell_queue(BodyOpen(body.reqid, msgid))
        return body

    def close(self, body: Body) -> None:
        """No more of it is wanted."""
        if self._open.pop(body.reqid, None) is not None:
            self._shell.tell_queue(BodyClose(body.reqid))

    def received(self, message: QueueBody) -> None:
        body = self._open.get(message.reqid)
        if body is None:
            return
        if message.last or not message.ok:
            body.complete = True
            body.failed = not message.ok
            del self._open[message.reqid]
        if message.ok:
            body.chunks.append(message.chunk)
        body.arrived()

    def _credit(self, body: Body, size: int) -> None:
        if size:
            self._shell.tell_queue(BodyCredit(body.reqid, size))
