"""The world around a transfer agent, in memory: a clock, a net of servers, a queue and lka.

Everything happens when ``run`` is called: frames to the agent, octets between its links and the servers, timers that
are due.  ``advance`` moves the clock from one timer to the next.
"""

import heapq
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

from pysmtpd.base.envelope import Agent, BounceKind, Envelope, Ret
from pysmtpd.base.mailaddr import NULL, parse
from pysmtpd.base.procs import Proc
from pysmtpd.base.struct import replace
from pysmtpd.conf.config import Action, Config, Method, MtaLimits
from pysmtpd.imsg import Encoder, Message
from pysmtpd.messages import (
    BodyClose,
    BodyCredit,
    BodyOpen,
    Delivered,
    DeliveryHold,
    DeliveryRelease,
    Found,
    Host,
    HostList,
    MtaLookedUp,
    MtaLookup,
    MtaResolve,
    MtaResolved,
    Outcome,
    QueueBody,
    QueueDeliver,
    Result,
)
from pysmtpd.relay.shell import Handler
from pysmtpd.relay.tls_policy import TlsPolicy
from pysmtpd.relay.transfer import TransferAgent
from tests.support.server import Server

BODY = b"Subject: test\r\n\r\n.hello\r\n"
CHUNK = 65536
_TO_QUEUE = Encoder(Proc.MTA, Proc.QUEUE, 1)
_TO_LKA = Encoder(Proc.MTA, Proc.LKA, 1)


class Info:
    text = "TLSv1.3:TLS_AES_256_GCM_SHA384:256"
    fingerprint = "SHA256:00"
    verified = False


class Timer:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Link:
    """One connection.  A server of None never answers; an error is told when the connection is made."""

    def __init__(self, world: "World", address: str, handler: Handler, server: Server | str | None,
                 timeout: float) -> None:
        self.world = world
        self.address = address
        self.handler = handler
        self.server = server
        self.backlog = 0
        self.closed = False
        self.name = ""             # expected in the certificate
        self.policy: TlsPolicy | None = None
        self.stalled = False       # the server takes nothing for now
        self.began = world.time
        self._kept: list[bytes] = []
        self._timer: Timer | None = None
        self.set_timeout(timeout)
        if isinstance(server, Server):
            world.post(self._connected)
        elif isinstance(server, str):
            world.post(lambda: self.fail(server))

    def _connected(self) -> None:
        assert isinstance(self.server, Server)
        tls_first = self.server.tls < 0
        self.handler.io_connected()
        if not self.closed and not tls_first:
            self.told(self.server.greet())

    def write(self, data: bytes) -> None:
        if self.closed:
            return
        assert isinstance(self.server, Server)
        self.touch()
        if self.stalled:
            self._kept.append(data)
            self.backlog += len(data)
            return
        self.told(self.server.receive(data))

    def unstall(self) -> None:
        self.stalled = False
        data, self._kept, self.backlog = b"".join(self._kept), [], 0
        self.write(data)
        self.world.post(self.handler.io_drained)

    def told(self, data: bytes) -> None:
        assert isinstance(self.server, Server)
        if data:
            self.world.post(lambda: self._tell(data))
        if self.server.closed:
            self.world.post(self._eof)

    def _tell(self, data: bytes) -> None:
        if not self.closed:
            self.touch()
            self.handler.io_data(data)

    def _eof(self) -> None:
        if not self.closed:
            self.handler.io_eof()

    def fail(self, text: str) -> None:
        if not self.closed:
            self.handler.io_error(text)
            self.abort()

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self.closed:
            self.closed = True
            self.world.links.remove(self)
            if self._timer is not None:
                self._timer.cancel()

    def set_timeout(self, seconds: float) -> None:
        self.timeout = seconds
        self.touch()

    def touch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.world.later(self.timeout, self._expire)

    def _expire(self) -> None:
        if not self.closed:
            self.touch()
            self.handler.io_timeout()


class World:
    """The Shell of one agent.  ``net`` has a server, an error or silence (None) for each address."""

    def __init__(self, *actions: Action, limits: MtaLimits | None = None) -> None:
        self.time = 1000.0
        self.net: dict[str, Callable[[], Server | str | None]] = {}
        self.mx: dict[str, list[Host] | MtaResolved] = {}
        self.tables: dict[tuple[str, str, str], list[str]] = {}
        self.bodies: dict[int, bytes] = {}
        self.lines: list[str] = []
        self.results: list[Result] = []
        self.held: list[int] = []
        self.asked: list[Message] = []
        self.dialled: list[tuple[str, int, str]] = []
        self.links: list[Link] = []
        self.servers: list[tuple[str, Server]] = []
        self.shake: Callable[[Link], str] = lambda link: ""
        self.lka_silent = False
        self.lka_slow: set[str] = set()    # services it never answers for
        self.queue_silent = False
        self.opened: dict[int, tuple[bytes, int]] = {}   # rest of a body, window
        self.closed_bodies: list[int] = []
        self._ids = count(1)
        self._work: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._released: list[tuple[int, int]] = []
        config = Config(hostname="me.example", actions={action.name: action for action in actions} or {
            "out": Action(name="out", method=Method.RELAY)}, mta_limits={"": limits or MtaLimits()})
        self.agent = TransferAgent(config, self)

    # what the agent needs of its shell

    def now(self) -> int:
        return 1_700_000_000 + int(self.time - 1000)

    def clock(self) -> float:
        return self.time

    def new_reqid(self) -> int:
        return next(self._ids)

    def soon(self, callback: Callable[[], None]) -> None:
        self._work.append(callback)

    def later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(self.time + seconds, callback)
        heapq.heappush(self._timers, (timer.at, next(self._ids), timer))
        return timer

    def dial(self, address: str, port: int, handler: Handler, source: str, timeout: float) -> Link:
        self.dialled.append((address, port, source))
        server = self.net[address]() if address in self.net else "Connection refused"
        if isinstance(server, str) and server.startswith("!"):
            raise OSError(101, server[1:])
        if isinstance(server, Server):
            self.servers.append((address, server))
        link = Link(self, address, handler, server, timeout)
        self.links.append(link)
        return link

    def local_address(self, link: object) -> str:
        return "192.0.2.1"

    def start_tls(self, link: Any, policy: TlsPolicy, name: str) -> None:
        link.policy, link.name = policy, name
        error = self.shake(link)
        self.post((lambda: link.fail(f"TLS: {error}")) if error else lambda: link.handler.io_tls(Info()))
        if link.server.tls < 0:
            link.server.tls = 1
            self.post(lambda: link.told(link.server.greet()))

    def tell_queue(self, message: Message) -> None:
        _TO_QUEUE.encode(message)
        self.asked.append(message)
        match message:
            case BodyOpen(reqid, msgid) if not self.queue_silent:
                self.opened[reqid] = self.bodies.get(msgid, BODY), 4 * CHUNK
                self._send_body(reqid)
            case BodyCredit(reqid, size) if reqid in self.opened:
                rest, window = self.opened[reqid]
                self.opened[reqid] = rest, window + size
                self._send_body(reqid)
            case BodyClose(reqid):
                self.closed_bodies.append(reqid)
                self.opened.pop(reqid, None)
            case Delivered(results):
                self.results += results
            case DeliveryHold(evpid, _):
                self.held.append(evpid)
            case DeliveryRelease(holdq, number):
                self._released.append((holdq, number))
            case _:
                pass

    def _send_body(self, reqid: int) -> None:
        rest, window = self.opened[reqid]
        while window > 0:
            piece, rest = rest[:CHUNK], rest[CHUNK:]
            window -= len(piece)
            message = QueueBody(reqid, piece, not rest)
            self.post(lambda message=message: self.agent.bodies.received(message))  # type: ignore[misc]
            if not rest:
                del self.opened[reqid]
                return
        self.opened[reqid] = rest, window

    def tell_lka(self, message: Message) -> None:
        _TO_LKA.encode(message)
        self.asked.append(message)
        if self.lka_silent:
            return
        if isinstance(message, MtaResolve):
            answer = self.mx.get(message.name, [])
            if isinstance(answer, MtaResolved):
                answer = replace(answer, reqid=message.reqid)
            else:
                answer = MtaResolved(message.reqid, HostList.OK, answer, "", "")
            self.post(lambda: self.agent.questions.resolved(answer))
        elif isinstance(message, MtaLookup) and message.service not in self.lka_slow:
            values = self.tables.get((message.service, message.table, message.key), [])
            value = values[0] if values else ""
            values.append(values.pop(0)) if values else None
            found = Found.YES if value else Found.NO
            self.post(lambda: self.agent.questions.looked_up(MtaLookedUp(message.reqid, found, value)))

    def log(self, line: str) -> None:
        self.lines.append(line)

    # what a test says

    def post(self, work: Callable[[], None]) -> None:
        self._work.append(work)

    def run(self) -> None:
        """Until nothing is left to do at this moment."""
        for _ in range(200_000):
            if not self._work:
                return
            self._work.popleft()()
        raise AssertionError("it never ends")

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        end = self.time + seconds
        self.run()
        while self._timers and self._timers[0][0] <= end:
            at, _, timer = heapq.heappop(self._timers)
            self.time = max(self.time, at)
            if timer.callback is not None:
                timer.callback()
            self.run()
        self.time = end

    def serve(self, address: str, *replies: dict[str, Any] | str | None, **options: Any) -> None:
        """What answers at an address: one of these after the other, the last one for ever."""
        todo = list(replies or ({},))

        def next_server() -> Server | str | None:
            reply = todo.pop(0) if len(todo) > 1 else todo[0]
            return Server(reply, **options) if isinstance(reply, dict) else reply

        self.net[address] = next_server

    def exchangers(self, domain: str, *addresses: str) -> None:
        """Each of a preference of its own."""
        self.mx[domain] = [Host(10 * (n + 1), f"mx{n + 1}.{domain}", address) for n, address in enumerate(addresses)]

    def deliver(self, *rcpts: str, msgid: int = 1, first: int = 1, size: int = 0, has_8bit: bool = False,
                body: bytes = b"", binary: bool = False, utf8_header: bool = False, **more: Any) -> None:
        """An envelope of one message for each recipient.  body: comes along."""
        for number, rcpt in enumerate(rcpts, first):
            self.agent.addressing.deliver(QueueDeliver(replace(envelope(rcpt, msgid << 32 | number), **more),
                                            size or len(body or self.bodies.get(msgid, BODY)), has_8bit, body,
                                            binary, utf8_header))

    @property
    def outcomes(self) -> list[Outcome]:
        return [result.outcome for result in self.results]

    @property
    def messages(self) -> list[tuple[str, list[str], bytes]]:
        """What arrived anywhere."""
        return [message for _, server in self.servers for message in server.messages]

    def logged(self, text: str) -> list[str]:
        return [line for line in self.lines if text in line]


def envelope(rcpt: str, evpid: int) -> Envelope:
    address = parse(rcpt)
    return Envelope(
        evpid, Agent.MTA, "out", parse("a@a.example"), address, address, "", "", "", "me.example", "h", "h.example", "",
        "192.0.2.9", 0, 1_700_000_000, 86400, 0, 0, 0, 0, Ret.NONE, "", "", "", "", BounceKind.NONE, 0)


__all__ = ["NULL", "World", "envelope"]
