"""The client's side of one SMTP or LMTP session, without I/O (RFC 5321, 2033, 2920, 3207, 4954).

Octets, the end of the connection and the passing of time go in; effects come out.  After ``Ready`` the owner hands
in a transaction by ``send``; ``NeedBody`` asks for its mail data by ``body``; each recipient gets exactly one RcptDone,
or is named in a TxAborted when the session ended first.

Whatever the server takes at once is sent at once: with PIPELINING MAIL, all RCPT and DATA are one write, and so are
the end of one message and the commands of the next when ``body`` is told of it.  Without, one command at a time.
What may be said next waits in one queue, whose answer is expected in another: these two are all the state there is.
"""

import enum
from collections import deque
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from pysmtpd.base.text import check_clean
from pysmtpd.messages import Outcome
from pysmtpd.session import client_auth, client_commands, effects
from pysmtpd.session.client_commands import Extensions, Transaction
from pysmtpd.session.client_data import Chunker, DotStuffer
from pysmtpd.session.client_effects import Bye, Effect, Failed, NeedBody, RcptDone, Ready, StartTls, TxAborted, TxDone
from pysmtpd.session.client_reply import Reply, ReplyError, ReplyReader


class State(enum.Enum):
    """What the session is doing: mostly, which reply it waits for."""

    __hash__ = object.__hash__     # Enum's own is slow, and handlers are looked up by state for each reply

    INIT = "init"
    BANNER = "banner"
    EHLO = "ehlo"
    HELO = "helo"
    LHLO = "lhlo"
    STARTTLS = "starttls"
    TLS = "tls"
    AUTH = "auth"
    READY = "ready"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    BODY = "body"
    BDAT = "bdat"
    EOM = "eom"
    RSET = "rset"
    QUIT = "quit"
    CLOSED = "closed"


class _Running:
    """A transaction under way."""

    __slots__ = ("accepted", "dotted", "refused", "tx", "undecided")

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx
        self.undecided = set(range(len(tx.recipients)))
        self.accepted: list[int] = []
        self.refused = False       # MAIL was: the rest only has to be sat through
        self.dotted = False        # the end of the mail data was sent


class _Command(NamedTuple):
    """A command, and which reply it will bring."""

    state: State
    line: bytes
    running: _Running | None = None
    rcpt: int = 0                  # the recipient's place


class SmtpClient:
    """One session.  Each method returns the effects to be carried out, in order; after the end they are none."""

    def __init__(self, helo: str, *, lmtp: bool = False, starttls: StartTls = StartTls.NEVER,
                 credentials: str = "", secure: bool = False) -> None:
        """``credentials``: base64 of NUL user NUL password, or empty.  ``secure``: TLS began with the connection.

        Raises ValueError for a name or credentials that would break a line."""
        check_clean(helo + credentials, 2048, "HELO name or credentials")
        self.extensions = Extensions()
        self.failures = 0          # refused recipients since the last accepted one
        self._helo = helo
        self._lmtp = lmtp
        self._starttls = starttls
        self._credentials = credentials
        self._secure = secure
        self._reader = ReplyReader()
        self._queue: deque[_Command] = deque()       # not yet said
        self._expected: deque[_Command] = deque()    # said, not yet answered
        self._running: deque[_Running] = deque()     # at most two, the older first
        self._stuffer: DotStuffer | Chunker | None = None      # while the server waits for mail data
        self._effects: list[Effect] = []
        self._state = State.INIT   # where no reply is expected
        self._login: list[bytes] = []                # what is left to say of AUTH
        self._heard = False        # a reply, since the owner was last told whose turn it is

    @property
    def state(self) -> State:
        """What it is doing now."""
        return self._expected[0].state if self._expected else self._state

    # what the owner says

    def start(self) -> list[Effect]:
        """The connection is there."""
        self._expected.append(_Command(State.BANNER, b""))
        return self._out()

    def send(self, tx: Transaction) -> list[Effect]:
        """Begin a transaction.  Only after Ready."""
        assert self.state is State.READY and tx.recipients
        self._begin(tx)
        return self._out()

    def body(self, chunk: bytes, last: bool, following: Transaction | None = None) -> list[Effect]:
        """The next piece of the mail data; with the last one perhaps the transaction that follows."""
        if self._stuffer is None:
            return self._out()
        if isinstance(self._stuffer, Chunker):
            return self._chunk(self._stuffer.chunk(chunk, last=last), last, following)
        out = self._stuffer.chunk(chunk)
        if not last:
            self._say(out)
            return self._out()
        self._end_data(self._running[0], out + self._stuffer.end())
        if following is not None:
            self._begin(following)
        return self._out()

    def _chunk(self, out: bytes, last: bool, following: Transaction | None) -> list[Effect]:
        """A chunk; each but the last has a reply of its own, after which NeedBody comes again."""
        if last:
            self._end_data(self._running[0], out)
            if following is not None:
                self._begin(following)
        elif out:
            self._say(out)
            self._expected.append(_Command(State.BDAT, b"", self._running[0]))
        return self._out()

    def quit(self) -> list[Effect]:
        """End the session politely.  Only after Ready."""
        if self.state is State.READY:
            self._queue.append(_Command(State.QUIT, b"QUIT\r\n"))
        return self._out()

    # what the connection says

    def receive(self, data: bytes) -> list[Effect]:
        """Octets of the server."""
        if self._state in (State.CLOSED, State.TLS):
            return self._out()
        try:
            self._reader.feed(data)
            while (reply := self._reader.next()) is not None:
                self._reply(reply)
                self._heard = True
        except ReplyError as error:
            self._fail(f"Bad response: {error}")
        self._announce()
        return self._out()

    def tls_ready(self) -> list[Effect]:
        """The handshake that StartTls asked for is done."""
        if self._state is not State.TLS:
            return self._out()
        self._secure = True
        self._state = State.READY
        self.extensions = Extensions()
        self._hello()
        return self._out()

    def timeout(self) -> list[Effect]:
        """Nothing came for too long."""
        self._fail("Connection timeout")
        return self._out()

    def eof(self) -> list[Effect]:
        """The server closed."""
        if self.state is State.QUIT:
            self._close()
        else:
            self._fail("Connection closed unexpectedly")
        return self._out()

    def lost(self, reason: str) -> list[Effect]:
        """The connection broke, or the owner cannot go on."""
        self._fail(reason)
        return self._out()

    # saying

    def _out(self) -> list[Effect]:
        """Say what may be said now, and hand over all effects so far."""
        if self._queue:
            self._pump()
        out, self._effects = self._effects, []
        return out

    def _say(self, data: bytes) -> None:
        """Octets for the server; one write with those before, if nothing came between."""
        if not data:
            return
        if self._effects and isinstance(self._effects[-1], effects.Send):
            self._effects[-1] = effects.Send(self._effects[-1].data + data)
        else:
            self._effects.append(effects.Send(data))

    def _pump(self) -> None:
        if self._stuffer is not None:
            return
        if self.extensions.pipelining:
            self._say(b"".join([command.line for command in self._queue]))
            self._expected.extend(self._queue)
            self._queue.clear()
        elif not self._expected:
            command = self._queue.popleft()
            self._say(command.line)
            self._expected.append(command)

    def _begin(self, tx: Transaction) -> None:
        running = _Running(tx)
        offered = self.extensions
        commands = [_Command(State.MAIL, client_commands.mail(tx, offered, known=bool(self._credentials)), running)]
        for index, recipient in enumerate(tx.recipients):
            commands.append(_Command(State.RCPT, client_commands.rcpt(recipient, offered), running, index))
        if not tx.binary:
            commands.append(_Command(State.DATA, b"DATA\r\n", running))
        self._running.append(running)
        self._queue.extend(commands)

    def _end_data(self, running: _Running, data: bytes) -> None:
        self._stuffer = None
        self._state = State.READY
        running.dotted = True
        self._say(data)
        # RFC 2033 4.2: LMTP answers once for each recipient that was accepted.
        indexes = running.accepted if self._lmtp else [-1]
        self._expected.extend([_Command(State.EOM, b"", running, index) for index in indexes])

    # hearing

    def _reply(self, reply: Reply) -> None:
        if self._state is State.CLOSED:
            return
        if not self._expected:
            self._unasked(reply)
            return
        command = self._expected.popleft()
        if reply.code == 421 and command.state not in (State.BANNER, State.EOM, State.QUIT):
            # RFC 5321 3.8: the server closes, whatever the command was.
            self._fail(reply.text, reply.esc)
            return
        self._HANDLERS[command.state](self, command, reply)
        if reply.code == 421 and command.state is State.EOM:
            self._fail(reply.text, reply.esc)
        elif self._queue:
            self._pump()

    def _announce(self) -> None:
        """Now that all that came was heard: whether it is the owner's turn."""
        if not self._heard or self._expected or self._queue:
            return
        self._heard = False
        if self._state is State.READY and not self._running:
            self._effects.append(Ready())
        elif self._state is State.BODY:
            self._effects.append(NeedBody())

    def _unasked(self, reply: Reply) -> None:
        """A reply to nothing: the server closes, or refuses mail data that it has not wholly seen."""
        if reply.code < 400:
            self._fail("Remote host sent too much data")
            return
        if self._stuffer is not None and reply.code != 421:
            self._decide(self._running[0], self._running[0].accepted, reply)
        self._fail(reply.text, reply.esc)

    def _banner(self, _command: _Command, reply: Reply) -> None:
        if reply.positive:
            self._state = State.READY
            self._hello()
        else:
            self._fail(f"BANNER rejected: {reply.text}", reply.esc)

    def _hello(self) -> None:
        state, verb = (State.LHLO, "LHLO") if self._lmtp else (State.EHLO, "EHLO")
        self._queue.append(_Command(state, f"{verb} {self._helo}\r\n".encode()))

    def _ehlo(self, command: _Command, reply: Reply) -> None:
        if reply.positive:
            self.extensions = client_commands.parse_extensions(reply.lines)
            self._secure_or_go_on()
        elif self._lmtp or self._credentials or (self._starttls is StartTls.REQUIRED and not self._secure):
            self._fail(f"{command.state.name} rejected: {reply.text}", reply.esc)
        else:
            self._queue.append(_Command(State.HELO, f"HELO {self._helo}\r\n".encode()))

    def _helo_reply(self, _command: _Command, reply: Reply) -> None:
        if not reply.positive:
            self._fail(f"HELO rejected: {reply.text}", reply.esc)

    def _secure_or_go_on(self) -> None:
        if self._secure or self._starttls is StartTls.NEVER:
            self._authenticate()
        elif self.extensions.starttls:
            self._queue.append(_Command(State.STARTTLS, b"STARTTLS\r\n"))
        elif self._starttls is StartTls.REQUIRED:
            self._fail("TLS required but not supported by remote host")
        else:
            self._authenticate()

    def _starttls_reply(self, _command: _Command, reply: Reply) -> None:
        if reply.positive:
            if self._reader.pending:
                # RFC 3207 6: what came in the clear must not be taken for what comes after.
                self._fail("Remote host sent too much data")
                return
            self._state = State.TLS
            self._effects.append(effects.StartTls())
        elif self._starttls is StartTls.REQUIRED:
            self._fail(f"STARTTLS rejected: {reply.text}", reply.esc)
        else:
            self._authenticate()

    def _authenticate(self) -> None:
        if not self._credentials:
            return
        try:
            self._login = client_auth.lines(self._credentials, self.extensions.auth, secure=self._secure)
        except client_auth.AuthError as error:
            self._fail(str(error))
            return
        self._queue.append(_Command(State.AUTH, self._login.pop(0)))

    def _auth_reply(self, _command: _Command, reply: Reply) -> None:
        if reply.code == 334 and self._login:
            self._queue.append(_Command(State.AUTH, self._login.pop(0)))
        elif not reply.positive:
            text = client_auth.without_secrets(reply.text, self._credentials)
            self._fail(f"AUTH rejected: {text}", reply.esc)

    # a transaction

    def _mail_reply(self, command: _Command, reply: Reply) -> None:
        running = command.running
        assert running is not None
        if reply.positive:
            return
        running.refused = True
        self._decide(running, sorted(running.undecided), reply)
        self._drop_rest(running)

    def _rcpt_reply(self, command: _Command, reply: Reply) -> None:
        running = command.running
        assert running is not None
        if running.refused:
            if reply.positive:
                # Whatever it believes to have: an empty message for this recipient must not come of it.
                self._fail("RCPT accepted after MAIL was refused")
        else:
            self._rcpt_decided(running, command, reply)
        if running.tx.binary and command.rcpt == len(running.tx.recipients) - 1 and running in self._running:
            self._begin_chunks(running)

    def _begin_chunks(self, running: _Running) -> None:
        """BDAT asks for no leave: it may follow the last RCPT."""
        if running.accepted:
            self._stuffer = Chunker()
            self._state = State.BODY
        else:
            self._finish(running, reset=not running.refused)

    def _rcpt_decided(self, running: _Running, command: _Command, reply: Reply) -> None:
        if reply.positive:
            running.accepted.append(command.rcpt)
            self.failures = 0
            return
        self.failures += 1
        self._decide(running, [command.rcpt], reply)
        if not running.undecided and self._unsaid(running):
            # All are refused and DATA was not said: nothing to say but RSET.
            self._drop_rest(running, reset=True)

    def _data_reply(self, command: _Command, reply: Reply) -> None:
        running = command.running
        assert running is not None
        go_on = 300 <= reply.code < 400
        if go_on and running.accepted:
            self._stuffer = DotStuffer()
            self._state = State.BODY
        elif go_on:
            self._empty_data(running)
        else:
            self._decide(running, running.accepted, reply)
            self._finish(running, reset=not running.refused)

    def _bdat_reply(self, command: _Command, reply: Reply) -> None:
        running = command.running
        assert running is not None
        if not reply.positive:
            # RFC 3030 2: the message failed, and no chunk may follow.
            self._stuffer = None
            self._state = State.READY
            self._decide(running, running.accepted, reply)
            self._finish(running, reset=True)

    def _empty_data(self, running: _Running) -> None:
        """DATA was said before the server refused everything, and it wants mail data (RFC 2920 3.1)."""
        if self._lmtp:
            # It owes one reply for each accepted recipient: none, and we could not tell that from silence.
            self._fail("DATA accepted without recipients")
        else:
            self._end_data(running, b".\r\n")

    def _eom_reply(self, command: _Command, reply: Reply) -> None:
        running = command.running
        assert running is not None
        self._decide(running, [command.rcpt] if self._lmtp else running.accepted, reply)
        if not running.undecided:
            self._finish(running)

    def _rset_reply(self, command: _Command, reply: Reply) -> None:
        if command.running is not None:
            self._finish(command.running)
        if not reply.positive:
            self._fail(f"RSET rejected: {reply.text}", reply.esc)

    def _quit_reply(self, _command: _Command, _reply: Reply) -> None:
        self._effects.append(Bye())
        self._close()

    def _decide(self, running: _Running, indexes: list[int], reply: Reply) -> None:
        if not indexes:
            return
        outcome = Outcome.PERMFAIL if reply.code >= 500 else Outcome.TEMPFAIL
        if reply.positive and running.dotted:
            outcome = Outcome.OK
        esc, text = reply.esc, reply.text
        for index in indexes:
            if index in running.undecided:
                running.undecided.remove(index)
                self._effects.append(RcptDone(index, outcome, esc, text))

    def _unsaid(self, running: _Running) -> bool:
        return bool(self._queue) and self._queue[0].running is running

    def _drop_rest(self, running: _Running, *, reset: bool = False) -> None:
        """Forget the commands of a transaction that were not said; if there are any, it ends here."""
        if not self._unsaid(running):
            return
        while self._unsaid(running):
            self._queue.popleft()
        if reset:
            self._queue.appendleft(_Command(State.RSET, b"RSET\r\n", running))
        else:
            self._finish(running)

    def _finish(self, running: _Running, *, reset: bool = False) -> None:
        assert self._running[0] is running and not running.undecided
        self._running.popleft()
        self._effects.append(TxDone())
        if reset:
            self._queue.appendleft(_Command(State.RSET, b"RSET\r\n"))

    # the end

    def _fail(self, reason: str, esc: str = "") -> None:
        if self._state is State.CLOSED:
            return
        for running in self._running:
            over = not running.undecided
            self._effects.append(TxDone() if over else TxAborted(tuple(sorted(running.undecided)), not running.dotted))
        self._effects.append(Failed(reason, esc))
        self._close()

    def _close(self) -> None:
        if self._state is not State.CLOSED:
            self._state = State.CLOSED
            self._queue.clear()
            self._expected.clear()
            self._running.clear()
            self._stuffer = None
            self._effects.append(effects.Close())

    _HANDLERS: ClassVar[dict[State, Callable[["SmtpClient", _Command, Reply], None]]] = {
        State.BANNER: _banner,
        State.EHLO: _ehlo,
        State.LHLO: _ehlo,
        State.HELO: _helo_reply,
        State.STARTTLS: _starttls_reply,
        State.AUTH: _auth_reply,
        State.MAIL: _mail_reply,
        State.RCPT: _rcpt_reply,
        State.DATA: _data_reply,
        State.BDAT: _bdat_reply,
        State.EOM: _eom_reply,
        State.RSET: _rset_reply,
        State.QUIT: _quit_reply,
    }

