"""Our client against our server, in memory: what one says the other understands, whatever the pieces and the body."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.base.envelope import Notify, Ret
from pysmtpd.conf.config import Listener, Tls
from pysmtpd.messages import ExpandRcpt, Outcome, SmtpLookupName, SmtpMessage, SmtpMessageCommit
from pysmtpd.session import effects
from pysmtpd.session.client_commands import Recipient, Transaction
from pysmtpd.session.client_effects import Effect, NeedBody, RcptDone, Ready, StartTls
from pysmtpd.session.smtp_client import SmtpClient
from pysmtpd.session.smtp_settings import SessionSettings
from tests.support import chat

CIPHERS = "TLSv1.3:A:256"


class Pair(chat.Player):
    """A session and a client, wired together; recipients whose name begins with ``no`` are refused."""

    def __init__(self, listener: Listener, todo: Sequence[tuple[Transaction, bytes]], starttls: StartTls,
                 cut: int) -> None:
        super().__init__(chat.Chat(listener, SessionSettings("mx.example.org"), "192.0.2.10", False, []))
        self.client = SmtpClient("client.example", starttls=starttls)
        self.todo = list(todo)
        self.cut = cut
        self.split = 0             # so much of a body comes in a piece of its own
        self.results: list[list[tuple[int, Outcome]]] = []
        self.messages: list[bytes] = []
        self.envelopes: list[list[ExpandRcpt]] = []
        self.accepted: list[ExpandRcpt] = []
        self.client_closed = False
        self._to_server = b""
        self._heard = 0
        self._first = 0

    def play(self) -> None:
        self.serve(self.session.start(0))
        self.obey(self.client.start())
        while not self.client_closed:
            before = (self._heard, self._to_server, len(self.sent))
            if self._to_server:
                piece, self._to_server = self._to_server[: self.cut], self._to_server[self.cut :]
                self.serve(self.session.receive(piece, 0))
            elif self._heard < len(self.sent):
                piece = self.sent[self._heard : self._heard + self.cut]
                self._heard += len(piece)
                self.obey(self.client.receive(piece))
            elif self.closes:
                self.obey(self.client.eof())
            assert (self._heard, self._to_server, len(self.sent)) != before or self.client_closed, "nobody speaks"

    def serve(self, wanted: list[effects.Effect]) -> None:
        """What the server wants; its questions are answered."""
        self.carry_out(wanted)
        while self.question is not None and not self.session.closed:
            question, self.question = self.question, None
            self.carry_out(self.session.answer(chat.answer_to(question, self._words(question)), 0))

    def _words(self, question: object) -> str:
        if isinstance(question, SmtpLookupName):
            return "NameLookedUp client.example.org"
        if isinstance(question, SmtpMessage | SmtpMessageCommit):
            self.messages.append(
                question.body if isinstance(question, SmtpMessage) else self.body[-question.size :])
            self.envelopes.append(self.accepted)
            self.accepted = []
            return "SmtpMessageCommitted ok"
        assert isinstance(question, ExpandRcpt)
        if question.envelope.dest.user.startswith("no"):
            return "RcptExpanded refuse 550 Invalid recipient"
        self.accepted.append(question)
        return "RcptExpanded 1"

    def obey(self, wanted: list[Effect]) -> None:
        """What the client wants."""
        for effect in wanted:
            match effect:
                case effects.Send(data):
                    self._to_server += data
                case effects.StartTls():
                    self.run(self.session.tls_ready(CIPHERS, 0))
                    self.obey(self.client.tls_ready())
                case effects.Close():
                    self.client_closed = True
                case Ready():
                    if len(self.results) < len(self.todo):
                        self.results.append([])
                        self.obey(self.client.send(self.todo[len(self.results) - 1][0]))
                    else:
                        self.obey(self.client.quit())
                case NeedBody():
                    body = self.todo[len(self.results) - 1][1]
                    first, self.split = self.split, 0
                    self._first = first or self._first
                    self.obey(self.client.body(body[:first] if first else body[self._first :], not first))
                case RcptDone():
                    self.results[-1].append((effect.rcpt, effect.outcome))
                case _:
                    pass


def tx(*rcpts: Recipient, body: bytes = b"", **more: object) -> Transaction:
    return Transaction("a@a.example", rcpts, len(body), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("cut", [1, 7, 100_000])
@pytest.mark.parametrize("tls", [Tls.NO, Tls.OFFERED, Tls.REQUIRED])
def test_two_messages(cut: int, tls: Tls) -> None:
    first = b"Subject: one\r\n\r\n.\r\n..\r\n.dot\r\n"
    second = b"Subject: two\r\n\r\n" + b"x" * 3000 + b"\r\n"
    todo = [
        (tx(Recipient("b@b.example", Notify.NEVER), Recipient("no@b.example"),
            Recipient("c@b.example", orcpt="rfc822;x+2By"), body=first, ret=Ret.HDRS, envid="id+3D1"), first),
        (tx(Recipient("d@b.example"), body=second), second),
    ]
    pair = Pair(Listener(address="192.0.2.1", port=25, tls=tls), todo, StartTls.OFFERED, cut)
    pair.play()
    assert pair.closes == 1
    assert sorted(pair.results[0]) == [(0, Outcome.OK), (1, Outcome.PERMFAIL), (2, Outcome.OK)]
    assert pair.results[1] == [(0, Outcome.OK)]
    for message, (_, body) in zip(pair.messages, todo, strict=True):
        assert message.endswith(b"\r\n" + body)
    assert pair.tls_wanted == (tls is not Tls.NO)
    b, c = pair.envelopes[0]
    assert (b.envelope.notify, b.envelope.ret, b.envelope.envid) == (Notify.NEVER, Ret.HDRS, "id+3D1")
    assert b.tls is (tls is not Tls.NO)
    assert (c.envelope.notify, c.envelope.orcpt) == (0, "rfc822;x+2By")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([b".", b"\r\n", b"a", b".\r\n", b"\r\n.", b"QUIT\r\n", b"\xff"]), max_size=20),
       st.integers(1, 50))
def test_every_body_arrives_as_it_was(parts: list[bytes], cut: int) -> None:
    body = b"Subject: x\r\n\r\n" + b"".join(parts) + b"\r\n"
    todo = [(tx(Recipient("b@b.example"), body=body), body)]
    pair = Pair(Listener(address="192.0.2.1", port=25), todo, StartTls.NEVER, cut)
    pair.play()
    assert pair.results == [[(0, Outcome.OK)]]
    message = pair.messages[0]
    assert message[message.index(b"Subject: x") :] == body


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([b".", b"\r\n", b"\r", b"\n", b"\0", b"\r\n.\r\n", b"QUIT\r\n", b"\xff"]), max_size=20),
       st.integers(1, 50), st.integers(0, 30))
def test_every_binary_body_arrives_as_it_was(parts: list[bytes], cut: int, split: int) -> None:
    body = b"Subject: x\r\n\r\n" + b"".join(parts)
    todo = [(tx(Recipient("b@b.example"), Recipient("no@b.example"), body=body, binary=True), body)]
    pair = Pair(Listener(address="192.0.2.1", port=25), todo, StartTls.NEVER, cut)
    pair.split = split
    pair.play()
    assert sorted(pair.results[0]) == [(0, Outcome.OK), (1, Outcome.PERMFAIL)]
    message = pair.messages[0]
    assert message[message.index(b"Subject: x") :] == body


def test_a_binary_message_that_is_refused_or_has_no_recipient_leaves_the_session_usable() -> None:
    good = b"Subject: x\r\n\r\nx\r\n"
    bad = b"Subject: x\n\r\n\r\n"
    todo = [
        (tx(Recipient("no@b.example"), body=good, binary=True), good),
        (tx(Recipient("b@b.example"), body=bad, binary=True), bad),
        (tx(Recipient("b@b.example"), body=good), good),
    ]
    pair = Pair(Listener(address="192.0.2.1", port=25), todo, StartTls.NEVER, 100)
    pair.play()
    assert pair.results == [[(0, Outcome.PERMFAIL)], [(0, Outcome.PERMFAIL)], [(0, Outcome.OK)]]
    assert len(pair.messages) == 1
