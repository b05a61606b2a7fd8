"""How a session with a client runs, whatever it talks about.

Bytes, answers and the time go in; effects come out, to be carried out in order.  While a question is out, a Wait lasts
or a handshake is under way, the bytes are left alone, so that pipelined commands need no special case; ``reading``
tells the shell that more bytes are of no use now.  What waits is bounded: after ``reading`` became false the shell
may still give what it had read, a client of whom more than that is kept is hung up on.

After end of file a session still works through what it has: the shell must not close before the Close effect,
except after error().
"""

from collections.abc import Callable

from pysmtpd.base import logline, reply
from pysmtpd.base.reply import Reply
from pysmtpd.base.text import vis
from pysmtpd.imsg import Message
from pysmtpd.session.effects import Ask, Close, Effect, Log, Send, StartTls, Wait
from pysmtpd.session.lines import Lines

WAITING_MAX = 4 * 65536            # octets kept while an answer is awaited
TURN_MAX = 128                     # steps before other clients have their turn


class Conversation:
    """One client: its bytes, our effects, and what is being waited for."""

    def __init__(self, id: int, address: str) -> None:
        self.id = id
        self._address = address
        self.closed = False
        self.secure = False
        self._now = 0
        self._lines = Lines()
        self._effects: list[Effect] = []
        self._out: list[bytes] = []
        # What goes on when the answer to the question that is out has come.
        self._waiting: Callable[[Message], None] | None = None
        self._pausing = False      # a Wait, or a handshake
        self._shaking = False      # a handshake
        self._eof = False
        self._leaving = False      # the daemon stops

    @property
    def reading(self) -> bool:
        """Whether more bytes are wanted."""
        return self._waiting is None and not self._pausing and not self._eof and not self.closed

    # what the shell tells

    def receive(self, data: bytes, now: int) -> list[Effect]:
        """Bytes came."""
        self._now = now
        if self._shaking or self.closed or self._eof:
            return []              # plaintext behind STARTTLS, or words after the last word
        if self._lines.feed(data) > WAITING_MAX and not self.reading:
            self._hang_up(reply.R421_FALLEN_BEHIND, "quit")
        return self._run()

    def answer(self, message: Message, now: int) -> list[Effect]:
        """The answer to the question that is out."""
        self._now = now
        proceed, self._waiting = self._waiting, None
        if proceed is None:
            return []
        proceed(message)
        return self._run()

    def wake(self, now: int) -> list[Effect]:
        """A Wait is over."""
        self._now = now
        self._pausing = self._shaking
        return self._run()

    def timeout(self, now: int) -> list[Effect]:
        """Nothing happened for too long."""
        self._now = now
        if not self.closed:
            if self._shaking:
                self._tls_failed("timeout")
            self._hang_up(None if self._shaking else reply.R421_TIMEOUT, "timeout")
        return self._done()

    def eof(self, now: int) -> list[Effect]:
        """The client says no more; it may still listen."""
        self._now = now
        self._eof = True
        if self._shaking and not self.closed:
            self._tls_broke("unexpected end")
        return self._run()

    def error(self, text: str, now: int) -> list[Effect]:
        """The connection broke.  A message whose commit is under way is still the queue's to keep."""
        self._now = now
        if not self.closed:
            if self._shaking:
                self._tls_broke(text)
            else:
                self._end(f'"io-error: {vis(text.encode())}"')
        return self._done()

    def shed(self, now: int) -> list[Effect]:
        """There are too many of its kind."""
        self._now = now
        if not self.closed:
            self._hang_up(None if self._shaking else reply.R421_BUSY, "overload")
        return self._done()

    def shutdown(self, now: int) -> list[Effect]:
        """The daemon stops.  Between commands that is said at once; what is in hand is finished first."""
        self._now = now
        self._leaving = True
        if self._pausing and not self.closed:
            self._hang_up(None if self._shaking else reply.R421_SHUTDOWN, "quit")
        return self._run()

    # for what the conversation is about

    def _advance(self) -> bool:
        """Do the next thing the bytes say; False when more bytes are needed for that."""
        raise NotImplementedError

    @property
    def _between(self) -> bool:
        """Whether nothing of the client's is in hand."""
        raise NotImplementedError

    def _forget(self) -> None:
        """The session is over: drop what was in hand."""
        raise NotImplementedError

    # how it runs

    def _run(self) -> list[Effect]:
        """Work through the bytes there are until an answer is needed, or more bytes are."""
        steps = 0
        while not self.closed and self._waiting is None and not self._pausing:
            if steps == TURN_MAX:
                self._wait(0.0)
                break
            steps += 1
            if self._leaving and self._between:
                self._hang_up(reply.R421_SHUTDOWN, "quit")
            elif not self._advance():
                if self._eof:
                    self._end("disconnect")
                break
        return self._done()

    def _done(self) -> list[Effect]:
        """The effects of this turn, replies first and in one piece: nothing is sent after a StartTls or a Close."""
        effects, self._effects = self._effects, []
        out = self._out
        if out:
            effects.insert(0, Send(out[0] if len(out) == 1 else b"".join(out)))
            out.clear()
        return effects

    def _ask(self, message: Message, proceed: Callable[[Message], None]) -> None:
        self._effects.append(Ask(message))
        self._waiting = proceed

    def _wait(self, seconds: float) -> None:
        self._pausing = True
        self._effects.append(Wait(seconds))

    def _shake_hands(self) -> None:
        # Nothing said in clear may be taken for something said under TLS (RFC 3207 4.2).
        self._lines.rest()
        self._shaking = self._pausing = True
        self._effects.append(StartTls())

    def _log(self, line: str) -> None:
        self._effects.append(Log(line))

    def _send(self, text: Reply) -> None:
        self._out.append(f"{text}\r\n".encode("ascii"))

    def _hang_up(self, text: Reply | None, reason: str) -> None:
        if text is not None:
            self._send(text)
        self._end(reason)

    def _tls_broke(self, why: str) -> None:
        self._tls_failed(why.removeprefix("TLS: "))
        self._end("tls-accept-failed")

    def _tls_failed(self, why: str) -> None:
        """smtps has not told yet who connected."""
        self._log(logline.SMTP_TLS_FAILED.format(
            id=self.id, address=logline.address_text(self._address), reason=vis(why.encode())))

    def _end(self, reason: str) -> None:
        """The session is over."""
        self._forget()
        self.closed = True
        self._waiting = None
        self._lines.rest()
        self._log(logline.SMTP_DISCONNECTED.format(id=self.id, reason=reason))
        self._effects.append(Close())
