"""Conversations as text files: read, replayed against an SmtpSession, and compared line by line.

    listen: tls=tls port=25          fields of the Listener (words only)
    settings: max_rcpt=2             fields of the SessionSettings
    client: 192.0.2.10               the client's address; ``local`` is the control socket
    greeted                          skip the name look-up and the banner

    C: EHLO client.example           a line of the client, CRLF is added
    C| raw\\r\\n\\x00                   octets of the client as they stand, with escapes
    S: 250 HELP                      a line of the server
    > ExpandRcpt to=<b@example.org>  a question, in the words of describe()
    < RcptExpanded 1                 its answer, in the words of answer_to()
    W: Subject: x                    a line of the message as the queue gets it
    L: smtp disconnected reason=quit a line of the log, without the session's id
    T: TLSv1.3:A:256                 the handshake is done
    E:                               end of file        X:  the session closed

A chat is replayed in the groups it is written in, all at once, octet by octet, and in random pieces.  Replies,
questions, the message and the end must be the same each time.
"""

import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from pysmtpd.base.ids import MsgId
from pysmtpd.base.procs import Proc
from pysmtpd.base.seal import KEY_SIZE, Seal
from pysmtpd.base.struct import replace
from pysmtpd.conf.config import Listener, Tls
from pysmtpd.imsg import BY_CLASS, Encoder, Message
from pysmtpd.messages import (
    AuthChallenge,
    AuthDone,
    AuthResult,
    ExpandRcpt,
    Fcrdns,
    Found,
    NameLookedUp,
    RcptExpanded,
    SenderChecked,
    SmtpAuth,
    SmtpAuthCancel,
    SmtpAuthResponse,
    SmtpBody,
    SmtpCheckSender,
    SmtpEnvelopes,
    SmtpLookedUp,
    SmtpLookup,
    SmtpLookupName,
    SmtpMessage,
    SmtpMessageCommit,
    SmtpMessageCommitted,
    SmtpMessageRollback,
)
from pysmtpd.session.effects import Admit, Ask, AuthFailed, Body, Close, Count, Effect, Log, Send, StartTls, Wait
from pysmtpd.session.smtp_session import SmtpSession
from pysmtpd.session.smtp_settings import SessionSettings

CHATS = Path(__file__).parent.parent / "chats"
SESSION_ID = 7
SEAL = Seal(b"k" * KEY_SIZE)
FIRST_MSGID = 0x1234ABCD
RANDOM = 0x0123456789ABCDEF
_ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|[rnt0\\])")
_ESCAPES = {"r": "\r", "n": "\n", "t": "\t", "0": "\0", "\\": "\\"}
TO_LKA = Encoder(Proc.SMTP, Proc.LKA, 1)
LKA_ROUTE = {Proc.SMTP >> Proc.LKA}
QUESTIONS = (SmtpLookupName, SmtpLookup, ExpandRcpt, SmtpMessage, SmtpMessageCommit, SmtpAuth, SmtpAuthResponse,
             SmtpCheckSender)
TO_QUEUE = Encoder(Proc.SMTP, Proc.QUEUE, 1)


class Chat(NamedTuple):
    """A chat file, read."""

    listener: Listener
    settings: SessionSettings
    client: str
    greeted: bool
    lines: list[tuple[str, str]]     # kind and text


def read(path: Path) -> Chat:
    """Raises ValueError for a line that is none."""
    listener: dict[str, Any] = {"address": "192.0.2.1", "port": 25}
    settings: dict[str, Any] = {"smtpname": "mx.example.org"}
    client, greeted, lines = "192.0.2.10", False, []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("listen:"):
            listener.update(_fields(line))
        elif line.startswith("settings:"):
            settings.update(_fields(line))
        elif line.startswith("client:"):
            client = line.split()[1]
        elif line == "greeted":
            greeted = True
        elif re.match(r"([CSWLTEX]:|C\||[<>])( |$)", line):
            kind, _, text = line.partition(" ")
            lines.append((kind.rstrip(":"), text))
        elif line and not line.startswith("#"):
            raise ValueError(f"{path.name}: {line}")
    return Chat(Listener(**listener), SessionSettings(**settings), client, greeted, lines)


def _fields(line: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for word in line.split()[1:]:
        key, _, value = word.partition("=")
        if key == "without":
            fields[key] = tuple(value.split(","))
            continue
        fields[key] = Tls(value) if key == "tls" else int(value) if value.isdigit() else value or True
    return fields


def unescape(text: str) -> bytes:
    """``\\r \\n \\t \\0 \\\\ \\xhh`` as octets."""
    def octet(match: re.Match[str]) -> str:
        word = match[1]
        return _ESCAPES.get(word) or chr(int(word[1:], 16))

    return _ESCAPE.sub(lambda match: "\0" if match[1] == "0" else octet(match), text).encode("latin-1")


def describe(message: Message) -> str:
    """A question in one line."""
    match message:
        case SmtpLookupName():
            return f"SmtpLookupName {message.address}"
        case SmtpLookup():
            return f"SmtpLookup {message.service} <{message.table}> {message.key}"
        case ExpandRcpt():
            e = message.envelope
            dsn = "".join(
                f" {name}={value}" for name, value in
                (("notify", e.notify), ("orcpt", e.orcpt), ("ret", int(e.ret)), ("envid", e.envid), ("flags", e.flags),
                 ("auth", e.auth))
                if value
            )
            return (f"ExpandRcpt from=<{e.sender}> to=<{e.dest}>{dsn}{' tls' if message.tls else ''}"
                    f"{' local' if message.local else ''}")
        case SmtpEnvelopes():
            ids = " ".join(f"{e.evpid:016x}" for sealed in message.sealed for e in SEAL.open(sealed))
            return f"SmtpEnvelopes {ids}"
        case SmtpMessage():
            numbers = [e.evpid for sealed in message.sealed for e in SEAL.open(sealed)]
            assert numbers == list(range(message.msgid << 32 | 1, (message.msgid << 32) + len(numbers) + 1))
            return f"SmtpMessage {message.msgid:08x} envelopes={len(numbers)}"
        case SmtpMessageCommit():
            binary = " binary" if message.binary else ""
            utf8 = " utf8-header" if message.utf8_header else ""
            return f"SmtpMessageCommit {message.msgid:08x} envelopes={message.envelope_count}{binary}{utf8}"
        case SmtpMessageRollback():
            return "SmtpMessageRollback"
        case SmtpAuth():
            words = f" {message.initial!r}" if message.has_initial else ""
            return f"SmtpAuth {message.listener} {message.mechanism} {message.address}{words}"
        case SmtpAuthResponse():
            return f"SmtpAuthResponse {message.data!r}"
        case SmtpAuthCancel():
            return "SmtpAuthCancel"
        case SmtpCheckSender():
            return f"SmtpCheckSender {message.table} {message.user} {message.sender}"
    raise AssertionError(message)


def answer_to(question: Message | Admit, text: str, before: int = 0) -> Message:
    """``NameLookedUp HOST``, ``SmtpLookedUp YES|NO|TEMPFAIL [VALUE]``, ``RcptExpanded [more] N|refuse REPLY|whole
    REPLY``, and ``SmtpMessageCommitted ok|failed|full``.

    before: how many envelopes earlier answers to the same question had."""
    kind, *words = text.split(" ")
    if kind == "NameLookedUp":
        return NameLookedUp(SESSION_ID, words[0], Fcrdns.PASS)
    if kind == "SmtpMessageCommitted":
        return SmtpMessageCommitted(SESSION_ID, words[0] == "ok", words[0] == "full")
    if kind == "SmtpLookedUp":
        return SmtpLookedUp(SESSION_ID, Found[words[0]], " ".join(words[1:]))
    if kind == "AuthChallenge":
        return AuthChallenge(SESSION_ID, unescape(" ".join(words)))
    if kind == "AuthDone":
        return AuthDone(SESSION_ID, AuthResult[words[0]], words[1] if len(words) > 1 else "")
    if kind == "SenderChecked":
        return SenderChecked(SESSION_ID, Found[words[0]])
    assert kind == "RcptExpanded" and isinstance(question, ExpandRcpt), text
    if words[0] in ("refuse", "whole"):
        return RcptExpanded(SESSION_ID, b"", 0, " ".join(words[1:]), "no rule matched", whole=words[0] == "whole")
    return expanded(question, int(words[-1]), before, more=words[0] == "more")


def expanded(question: ExpandRcpt, count: int, before: int = 0, *, more: bool = False) -> RcptExpanded:
    """So many envelopes, numbered from what the question says on."""
    first = question.envelope.evpid + before
    sealed = SEAL.close([replace(question.envelope, evpid=evpid) for evpid in range(first, first + count)])
    return RcptExpanded(SESSION_ID, sealed if count else b"", count, "", "", more)


class Player:
    """A session, and everything that came out of it."""

    def __init__(self, chat: Chat) -> None:
        self.msgid = FIRST_MSGID - 1
        self.session = SmtpSession(chat.listener, chat.settings, SESSION_ID, chat.client, self._next_msgid,
                                   random=lambda bits: RANDOM >> (64 - bits))
        self.answers = deque(text for kind, text in chat.lines if kind == "<")
        self.question: Message | Admit | None = None
        self.sent = b""
        self.asked: list[str] = []
        self.body = b""
        self.logged: list[str] = []
        self.tls_wanted = 0
        self.closes = 0
        self.counted: dict[str, int] = {}
        self.failed: list[str] = []
        self.commits: list[SmtpMessage | SmtpMessageCommit] = []
        self._body_start = 0

    def _next_msgid(self) -> MsgId:
        self.msgid += 1
        return MsgId(self.msgid)

    def carry_out(self, effects: list[Effect]) -> None:
        """As the shell does, checking what every effect must be."""
        waits = 0
        for effect in effects:
            assert not self.closes, f"{effect} after the session closed"
            match effect:
                case Send(data):
                    assert data
                    self.sent += data
                case Ask(message):
                    self._ask(message)
                case Body(chunk):
                    TO_QUEUE.encode(SmtpBody(SESSION_ID, chunk))
                    self.body += chunk
                case Log(line):
                    assert line.isprintable() and line.startswith(f"{SESSION_ID:016x} ")
                    self.logged.append(line[17:])
                case StartTls():
                    self.tls_wanted += 1
                case Close():
                    self.closes += 1
                case Count(key, amount):
                    self.counted[key] = self.counted.get(key, 0) + amount
                case Admit(address):
                    assert self.question is None
                    self.asked.append(f"Admit {address}")
                    self.question = effect
                case AuthFailed(user):
                    self.failed.append(user)
                case Wait():
                    waits += 1
                case _:
                    raise AssertionError(effect)
        for _ in range(waits):
            assert not self.session.reading
            self.carry_out(self.session.wake(0))

    def _ask(self, message: Message) -> None:
        to = TO_LKA if BY_CLASS[type(message)].routes & LKA_ROUTE else TO_QUEUE
        to.encode(message)
        self.asked.append(describe(message))
        if isinstance(message, SmtpMessageCommit):
            self.commits.append(message)
            assert message.size == len(self.body) - self._body_start
            self._body_start = len(self.body)
        if isinstance(message, SmtpMessage):
            assert self._body_start == len(self.body), "in one frame, and in pieces"
            self.body += message.body
            self._body_start = len(self.body)
            self.commits.append(message)
        if isinstance(message, QUESTIONS):
            assert self.question is None, "two questions at once"
            self.question = message

    def run(self, effects: list[Effect]) -> None:
        """Carry out effects, and answer questions as long as the chat has answers."""
        self.carry_out(effects)
        before = 0
        while self.question is not None and self.answers and not self.session.closed:
            message = answer_to(self.question, self.answers.popleft(), before)
            before = before + message.count if isinstance(message, RcptExpanded) and message.more else 0
            if not getattr(message, "more", False):
                self.question = None
            self.carry_out(self.session.answer(message, 0))

    def start(self, greeted: bool) -> None:
        if greeted:
            self.answers.appendleft("NameLookedUp client.example.org")
        self.run(self.session.start(0))
        if greeted:
            assert self.sent.startswith(b"220 ") and len(self.logged) == 1
            self.sent, self.logged, self.asked = b"", [], []

    def event(self, kind: str, text: str) -> None:
        if kind == "T":
            assert self.tls_wanted, "no handshake was wanted"
            self.run(self.session.tls_ready(text, 0))
        elif kind == "E":
            self.run(self.session.eof(0))


def pieces(data: bytes, random: Random | None) -> Iterator[bytes]:
    """Octets one by one, or cut at random."""
    at = 0
    while at < len(data):
        size = random.choice((1, 2, 3, 7, 20, 100)) if random else 1
        yield data[at : at + size]
        at += size


def groups(chat: Chat) -> Iterator[tuple[str, bytes, bytes]]:
    """What comes in, in the order of the chat, with what is sent before the next comes in:
    (kind, octets or text, expected)."""
    kind, data, expected = "", b"", b""
    for next_kind, text in chat.lines:
        if next_kind == "S":
            expected += text.encode() + b"\r\n"
        elif next_kind in ("C", "C|"):
            octets = text.encode("latin-1") + b"\r\n" if next_kind == "C" else unescape(text)
            if kind == "C" and not expected:
                data += octets
            else:
                yield kind, data, expected
                kind, data, expected = "C", octets, b""
        elif next_kind in ("T", "E"):
            yield kind, data, expected
            kind, data, expected = next_kind, text.encode(), b""
    yield kind, data, expected


def play(chat: Chat, how: str = "groups", random: Random | None = None) -> Player:
    """Replay a chat; ``how`` is groups, once or pieces.  In groups, replies are compared group by group."""
    player = Player(chat)
    player.start(chat.greeted)
    held = b""
    for kind, data, expected in groups(chat):
        before = len(player.sent) if kind else 0
        if kind == "C" and how == "once":
            held += data
            continue
        if held:
            player.run(player.session.receive(held, 0))
            held = b""
        if kind == "C":
            for piece in [data] if how == "groups" else pieces(data, random):
                player.run(player.session.receive(piece, 0))
        else:
            player.event(kind, data.decode())
        if how == "groups":
            assert player.sent[before:].decode() == expected.decode(), f"after {data!r}"
    if held:
        player.run(player.session.receive(held, 0))
    return player


def compare(chat: Chat, player: Player) -> None:
    """Every stream of effects is what the chat says."""
    def wanted(kind: str) -> list[str]:
        return [text for k, text in chat.lines if k == kind]

    assert player.sent.decode().split("\r\n")[:-1] == wanted("S")
    assert player.asked == wanted(">")
    if wanted("W"):
        assert player.body == b"".join(unescape(text) + b"\r\n" for text in wanted("W"))
    if wanted("L"):
        assert player.logged == wanted("L")
    assert player.closes == len(wanted("X"))
    assert not player.answers, "answers nobody asked for"
