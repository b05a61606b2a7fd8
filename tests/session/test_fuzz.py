"""Anything in any state: no exception leaves a session, each reply has RFC 5321's syntax, and memory is bounded."""

import re
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.base.ids import MsgId
from pysmtpd.conf.config import Listener, Tls
from pysmtpd.imsg import BY_CLASS, Message
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
    SmtpLookedUp,
    SmtpMessageCommitted,
)
from pysmtpd.session.conversation import WAITING_MAX
from pysmtpd.session.effects import Admit, Ask, Body, Close, Effect, Log, Send, StartTls, Wait
from pysmtpd.session.patience import Bounds
from pysmtpd.session.proxy import ProxyError, ProxyHeader
from pysmtpd.session.smtp_session import SmtpSession
from pysmtpd.session.smtp_settings import LOCAL, SessionSettings
from tests.support import chat

REPLY = re.compile(rb"[2-5][0-5][0-9](-[\t -~]*|( [\t -~]*)?)\r\n")   # 4.2; of 334 the text is base64
HELD_MAX = WAITING_MAX + (1 << 20) + 4 * 65536     # unread octets, a header, a piece of the body
BEGIN = b"EHLO c.example\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\n"
TLS = Listener(address="192.0.2.1", port=25, tls=Tls.OFFERED, auth="optional", senders="senders")


class Shell:
    """What is around a session; each effect is checked, and one question at a time is kept."""

    def __init__(self, listener: Listener, client: str = "192.0.2.10") -> None:
        made = SessionSettings("mx.example.org", 50_000, 3, 3, patience=Bounds(8, 8, 12, 1), xclient_from="proxies",
                               xforward_from="proxies")
        self.session = SmtpSession(listener, made, chat.SESSION_ID, client, self._msgid, random=lambda bits: 0)
        self.question: Message | Admit | None = None
        self.out = b""
        self.over = self.waits = self.shaking = False
        self._next = 0

    def _msgid(self) -> MsgId | None:
        self._next += 1
        return MsgId(self._next) if self._next % 5 else None

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            assert not self.over, "something after the end"
            if isinstance(effect, Send):
                assert not self.shaking, "in clear behind STARTTLS"
                self.out += effect.data
            elif isinstance(effect, Ask):
                to = chat.TO_LKA if BY_CLASS[type(effect.message)].routes & chat.LKA_ROUTE else chat.TO_QUEUE
                to.encode(effect.message)      # refuses what the other process would
                if isinstance(effect.message, chat.QUESTIONS):
                    assert self.question is None
                    self.question = effect.message
            elif isinstance(effect, Admit):
                assert self.question is None
                self.question = effect
            elif isinstance(effect, Body):
                assert 0 < len(effect.chunk) <= 65536
            elif isinstance(effect, Wait):
                self.waits = True
            elif isinstance(effect, StartTls):
                self.shaking = True
            elif isinstance(effect, Log):
                assert effect.line.isprintable() and "secret" not in effect.line
            elif isinstance(effect, Close):
                self.over = True
        assert self.session.held <= HELD_MAX
        assert self.over == self.session.closed

    def say(self, data: bytes) -> None:
        self.take(self.session.receive(data, 0))

    def answer(self, message: Message) -> None:
        if self.question is not None and not self.over:
            if not (isinstance(message, RcptExpanded) and message.more):
                self.question = None
            self.take(self.session.answer(message, 0))

    def yes(self) -> None:
        """Answer as long as there are questions, and wake."""
        for _ in range(100):
            if self.waits and not self.over:
                self.waits = False
                self.take(self.session.wake(0))
            elif self.question is not None and not self.over:
                self.answer(fitting(self.question, 0))
            else:
                return

    def secure(self) -> None:
        if self.shaking:
            self.shaking = False
            self.take(self.session.tls_ready("TLSv1.3:A:256", 0, "SHA256:x", True, ("joe",)))


def fitting(question: Message | Admit, choice: int) -> Message:
    """One of the answers that a question may get."""
    sid = chat.SESSION_ID
    name = type(question).__name__
    answers: list[Message]
    if isinstance(question, ExpandRcpt):
        answers = [chat.expanded(question, 1), chat.expanded(question, 2, more=True), chat.expanded(question, 0),
                   RcptExpanded(sid, b"", 0, "550 Invalid recipient", "no"), RcptExpanded(sid, b"", 0, "nonsense", "")]
    elif name == "SmtpLookupName":
        answers = [NameLookedUp(sid, "client.example", Fcrdns.PASS), NameLookedUp(sid, "<unknown>", Fcrdns.ERROR)]
    elif name in ("SmtpLookup", "Admit"):
        answers = [SmtpLookedUp(sid, Found.YES, "x.example"), SmtpLookedUp(sid, Found.NO, "conn-rate")]
    elif name in ("SmtpAuth", "SmtpAuthResponse"):
        answers = [AuthChallenge(sid, b"Username:"), AuthChallenge(sid, b"\0\xff" * 400),
                   AuthChallenge(sid, b"Password:"), *(AuthDone(sid, result, "joe") for result in AuthResult)]
    elif name == "SmtpCheckSender":
        answers = [SenderChecked(sid, found) for found in Found]
    else:
        answers = [SmtpMessageCommitted(sid, True, False), SmtpMessageCommitted(sid, False, False),
                   SmtpMessageCommitted(sid, False, True)]
    return answers[choice % len(answers)]


def _after(listener: Listener, *said: bytes, tls: bool = False, unanswered: bytes = b"", client: str = "192.0.2.10",
           ) -> Callable[[], Shell]:
    def make() -> Shell:
        shell = Shell(listener, client)
        if listener.tls is Tls.SMTPS:
            shell.shaking = True
            shell.secure()
        shell.take(shell.session.start(0))
        shell.yes()
        if tls:
            shell.say(b"EHLO c.example\r\nSTARTTLS\r\n")
            shell.secure()
        for data in said:
            shell.say(data)
            shell.yes()
        if unanswered:
            shell.say(unanswered)
        return shell

    return make


def _not_greeted() -> Shell:
    shell = Shell(TLS)
    shell.take(shell.session.start(0))
    return shell


PLAIN = Listener(address="127.0.0.1", port=25)
LMTP = Listener(address="192.0.2.1", port=24, lmtp=True)
SMTPS = Listener(address="192.0.2.1", port=465, tls=Tls.SMTPS, auth="required", received_auth=True, hostnames="names")
STATES: dict[str, Callable[[], Shell]] = {
    "not greeted": _not_greeted,
    "greeted": _after(PLAIN),
    "hello": _after(PLAIN, b"EHLO c.example\r\n"),
    "mail": _after(PLAIN, b"EHLO c.example\r\nMAIL FROM:<>\r\n"),
    "rcpt": _after(PLAIN, BEGIN),
    "rcpt asked": _after(PLAIN, b"EHLO c.example\r\nMAIL FROM:<>\r\n", unanswered=b"RCPT TO:<b@example.org>\r\n"),
    "data": _after(PLAIN, BEGIN, b"DATA\r\n"),
    "body": _after(PLAIN, BEGIN, b"DATA\r\nSubject: x\r\n\r\n.."),
    "committing": _after(PLAIN, BEGIN, unanswered=b"DATA\r\nSubject: x\r\n\r\nx\r\n.\r\n"),
    "in a chunk": _after(PLAIN, BEGIN, b"BDAT 50\r\nSubject: x"),
    "between chunks": _after(PLAIN, BEGIN, b"BDAT 12\r\nSubject: x\r\n"),
    "in the last chunk": _after(PLAIN, BEGIN, b"BDAT 50 LAST\r\nSubject: x"),
    "in a refused chunk": _after(PLAIN, b"BDAT 50\r\nSubject"),
    "binary": _after(PLAIN, BEGIN.replace(b"net>", b"net> BODY=BINARYMIME"), b"BDAT 12\r\nSubject: x\r\n"),
    "starttls": _after(TLS, b"EHLO c.example\r\n", unanswered=b"STARTTLS\r\n"),
    "secured": _after(TLS, tls=True),
    "auth asked": _after(TLS, b"EHLO c.example\r\n", tls=True, unanswered=b"AUTH PLAIN\r\n"),
    "in auth": _after(TLS, b"EHLO c.example\r\nAUTH LOGIN\r\n", tls=True),
    "mail asked": _after(TLS, b"EHLO c.example\r\n", b"XCLIENT LOGIN=joe HELO=x PROTO=ESMTP\r\n", tls=True,
                         unanswered=b"MAIL FROM:<a@b.example>\r\n"),
    "smtps": _after(SMTPS, b"EHLO c.example\r\n"),
    "lmtp": _after(LMTP, b"LHLO c.example\r\n"),
    "lmtp rcpts": _after(LMTP, b"LHLO" + BEGIN[4:] + b"RCPT TO:<c@example.org>\r\n"),
    "lmtp data": _after(LMTP, b"LHLO" + BEGIN[4:] + b"RCPT TO:<c@example.org>\r\nDATA\r\n"),
    "xclient asked": _after(PLAIN, unanswered=b"XCLIENT ADDR=203.0.113.9\r\n"),
    "xclient": _after(PLAIN, b"XCLIENT ADDR=203.0.113.9 NAME=x.example\r\nEHLO x\r\n"),
    "xforward": _after(PLAIN, b"EHLO c.example\r\nXFORWARD NAME=x ADDR=y\r\n"),
    "slowed down": _after(PLAIN, unanswered=b"FOO\r\n" * 3),
    "local": _after(Listener(address="socket"), b"EHLO c.example\r\n", client=LOCAL),
}
VERBS = st.sampled_from([
    b"HELO ", b"EHLO ", b"LHLO ", b"MAIL FROM:", b"MAIL FROM:<a@b.example> ", b"RCPT TO:", b"RCPT TO:<b@example.org> ",
    b"DATA", b"DATA", b"BDAT 5 ", b"BDAT ", b"RSET", b"QUIT", b"NOOP ", b"HELP ", b"VRFY ", b"STARTTLS", b"AUTH ",
    b"AUTH PLAIN ", b"AUTH LOGIN", b"AUTH EXTERNAL ", b"*", b"c2VjcmV0", b"XCLIENT ", b"XCLIENT ADDR=203.0.113.5 ",
    b"XFORWARD ", b".", b"Subject: x", b"", b"FOO ",
])
ARGUMENTS = st.one_of(st.binary(max_size=5), st.sampled_from([
    b"c.example", b"[::1]", b"<>", b"<@a,@b:c@d.example>", b'<"a b"@c.example>', b"<", b">", b'"', b" ", b"\t", b"+",
    b"@", b"5", b"LAST", b"AGpvZQBzZWNyZXQ=", b"=", b"NAME=", b"NAME=x ", b"HELO=y+41 ", b"LOGIN=joe ", b"LOGIN=+FF",
    b"ADDR=IPV6:::1 ", b"ADDR=", b"[UNAVAILABLE] ", b"PORT=0 ", b"DESTPORT=587 ", b"SOURCE=LOCAL ", b"PROTO=ESMTP ",
    b"SIZE=1 ", b"BODY=BINARYMIME ", b"SMTPUTF8 ", b"NOTIFY=NEVER ", b"ORCPT=rfc822;x ", b"AUTH=<> ", b"RET=HDRS ",
    b"ENVID=+41 ", b"\xff", b"\xc3\xbc", b"\xe2\x80\xa8", b"\xed\xb0\x80", b"\0", b"\r", b"\n", b"\x7f", b"\xc2\x85",
    b"x" * 600, b"y" * 5000,
]))
LINE = st.tuples(VERBS, st.lists(ARGUMENTS, max_size=3).map(b"".join)).map(lambda parts: b"".join(parts) + b"\r\n")
PIECE = st.one_of(LINE, LINE, LINE, ARGUMENTS, st.sampled_from([
    b"\r\n.\r\n", b".\r\n", b"12345", b"x: " + b"y" * 60_000, b"\r\n\r\n", b"DATA\r\nSubject: x\r\n\r\n.\r\n"]))
SAID = st.tuples(st.just("say"), st.lists(PIECE, max_size=6).map(b"".join))
HAPPENS = st.tuples(st.sampled_from(["answer", "yes", "wake", "tls", "eof", "timeout", "shed", "shutdown", "error"]),
                    st.integers(0, 9).map(lambda n: bytes([n])))


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(sorted(STATES)), st.lists(st.one_of(SAID, SAID, SAID, HAPPENS), max_size=14))
def test_anything_in_any_state(state: str, events: list[tuple[str, bytes]]) -> None:
    shell = STATES[state]()
    session = shell.session
    for kind, data in events:
        if kind == "say":
            shell.say(data)
        elif kind == "answer" and shell.question is not None:
            shell.answer(fitting(shell.question, data[0]))
        elif kind == "yes":
            shell.yes()
        elif kind == "wake" and shell.waits and not shell.over:
            shell.waits = False
            shell.take(session.wake(0))
        elif kind == "tls":
            shell.secure()
        elif kind in ("eof", "timeout", "shed", "shutdown"):
            shell.take(getattr(session, kind)(0))
        elif kind == "error":
            shell.take(session.error("broke\n", 0))
    shell.secure()
    shell.yes()
    shell.take(session.eof(0))
    shell.yes()
    assert shell.over or shell.question is not None
    out = shell.out
    while out:
        match = REPLY.match(out)
        assert match, out[:600]
        assert match.end() <= 512 or out.startswith(b"334 "), "too long"
        out = out[match.end() :]


def test_there_is_a_state_for_each_of_them() -> None:
    """They are what their names say: not a row of sessions that ended at once."""
    for name, make in STATES.items():
        shell = make()
        assert not shell.over, name
        assert (shell.question is not None) is (name in ("not greeted", "rcpt asked", "committing", "auth asked",
                                                         "mail asked", "xclient asked")), name
        assert shell.shaking is (name == "starttls"), name
        assert shell.waits is (name == "slowed down"), name


@settings(max_examples=150, deadline=None)
@given(st.booleans(), st.lists(st.one_of(st.binary(max_size=20), st.sampled_from([
    b"PROXY ", b"TCP4 ", b"192.0.2.1 ", b"1 ", b"2\r\n", b"\r\n\r\n\0\r\nQUIT\n", b"\x21\x11\0\x0c", b"\x21\x21\0\x24",
    b"\x20\0\xff\xff", b"a" * 300])), max_size=10))
def test_any_header_of_a_proxy(v1: bool, pieces: list[bytes]) -> None:
    header = ProxyHeader(v1=v1)
    for piece in pieces:
        if header.done:
            break
        try:
            taken = header.feed(piece)
        except ProxyError:
            return
        assert 0 <= taken <= len(piece) and len(header._kept) <= 200
