"""The client's conversations with servers good, slow, odd and hostile."""

from base64 import b64encode
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.base.envelope import Notify, Ret
from pysmtpd.messages import Outcome
from pysmtpd.session import effects
from pysmtpd.session.client_commands import Recipient, Transaction
from pysmtpd.session.client_effects import Bye, Effect, Failed, NeedBody, RcptDone, Ready, StartTls, TxAborted, TxDone
from pysmtpd.session.smtp_client import SmtpClient, State
from tests.support.server import DEFAULTS, Answer, Server

BODY = b"Subject: x\r\n\r\n.dot\r\nlast\r\n"
OK, TEMPFAIL, PERMFAIL = Outcome.OK, Outcome.TEMPFAIL, Outcome.PERMFAIL
PLAIN: dict[str, Answer] = {"EHLO": b"250 mx.example"}
CREDENTIALS = b64encode(b"\0user\0pass").decode()


def tx(*rcpts: str, sender: str = "a@a.example", **more: Any) -> Transaction:
    return Transaction(sender, tuple(Recipient(rcpt) for rcpt in rcpts or ("b@b.example",)), len(BODY), **more)


class Chat:
    """A client and a server, wired together; what happened is kept."""

    def __init__(self, server: Server, *txs: Transaction, ahead: bool = False, cut: int = 0,
                 **settings: Any) -> None:
        self.server = server
        self.client = SmtpClient("me.example", lmtp=server.lmtp, **settings)
        self.todo = list(txs)
        self.ahead = ahead
        self.cut = cut
        self.seen: list[Effect] = []
        self.closed = False
        self.to_client = server.greet()
        self.run(self.client.start())
        self.pump()

    def pump(self) -> None:
        while not self.closed and (self.to_client or self.server.closed):
            size = self.cut or len(self.to_client)
            piece, self.to_client = self.to_client[:size], self.to_client[size:]
            self.run(self.client.receive(piece) if piece else self.client.eof())

    def run(self, wanted: Iterable[Effect]) -> None:
        for effect in wanted:
            self.seen.append(effect)
            match effect:
                case effects.Send(data):
                    self.to_client += self.server.receive(data)
                case effects.StartTls():
                    self.run(self.client.tls_ready())
                case effects.Close():
                    self.closed = True
                case Ready():
                    self.run(self.client.send(self.todo.pop(0)) if self.todo else self.client.quit())
                case NeedBody():
                    following = self.todo.pop(0) if self.ahead and self.todo else None
                    self.run(self.client.body(BODY[:13], False))
                    self.run(self.client.body(BODY[13:], True, following))
                case _:
                    pass

    def of(self, kind: Callable[..., Effect]) -> list[Any]:
        return [effect for effect in self.seen if isinstance(effect, kind)]  # type: ignore[arg-type]

    @property
    def results(self) -> list[tuple[int, Outcome, str, str]]:
        return [tuple(effect) for effect in self.of(RcptDone)]


@pytest.mark.parametrize("cut", [0, 1, 3])
@pytest.mark.parametrize("ehlo", [None, b"250 mx.example"])
def test_a_message_goes_out(ehlo: bytes | None, cut: int) -> None:
    chat = Chat(Server({"EHLO": ehlo} if ehlo else {}), tx("b@b.example", "c@c.example"), cut=cut)
    assert chat.server.messages == [("a@a.example", ["b@b.example", "c@c.example"], BODY)]
    assert chat.results == [(0, OK, "2.0.0", "250 2.0.0 kept"), (1, OK, "2.0.0", "250 2.0.0 kept")]
    assert len(chat.of(TxDone)) == 1 and len(chat.of(Bye)) == 1 and not chat.of(Failed)
    assert chat.closed


def test_with_pipelining_a_transaction_is_one_write() -> None:
    chat = Chat(Server(), tx("b@b.example", "c@c.example"))
    assert chat.server.writes[1] == (
        b"MAIL FROM:<a@a.example> SIZE=%d\r\nRCPT TO:<b@b.example>\r\nRCPT TO:<c@c.example>\r\nDATA\r\n" % len(BODY))


def test_without_pipelining_one_command_at_a_time() -> None:
    chat = Chat(Server(PLAIN), tx())
    assert [write.count(b"\r\n") for write in chat.server.writes if write not in (BODY, b".\r\n")][:4] == [1, 1, 1, 1]
    assert chat.server.commands == [
        "EHLO me.example", "MAIL FROM:<a@a.example>", "RCPT TO:<b@b.example>", "DATA", "QUIT"]


@pytest.mark.parametrize("replies", [{}, PLAIN])
def test_the_next_transaction_follows_the_end_of_data(replies: dict[str, Answer]) -> None:
    chat = Chat(Server(replies), tx("b@b.example"), tx("c@c.example"), ahead=True)
    assert [rcpts for _, rcpts, _ in chat.server.messages] == [["b@b.example"], ["c@c.example"]]
    assert len(chat.of(TxDone)) == 2
    if not replies:
        follows = b"\r\n.\r\nMAIL FROM:<a@a.example> SIZE=%d\r\nRCPT TO:<c@c.example>\r\nDATA\r\n" % len(BODY)
        assert any(write.endswith(follows) for write in chat.server.writes)


def test_lmtp_has_one_reply_for_each_accepted_recipient() -> None:
    replies: dict[str, Answer] = {
        "RCPT TO:<no@b.example>": b"550 5.1.1 who?", "eom": [b"250 2.1.5 in", b"452 4.2.2 full"]}
    txs = tx("b@b.example", "no@b.example", "c@c.example"), tx("d@d.example")
    chat = Chat(Server(replies, lmtp=True), *txs, ahead=True)
    assert chat.results == [
        (1, PERMFAIL, "5.1.1", "550 5.1.1 who?"), (0, OK, "2.1.5", "250 2.1.5 in"),
        (2, TEMPFAIL, "4.2.2", "452 4.2.2 full"), (0, OK, "2.0.0", "250 2.0.0 kept")]
    assert chat.server.commands[0] == "LHLO me.example"


def test_parameters_only_where_they_are_offered() -> None:
    transaction = Transaction(
        "a@a.example", (Recipient("b@b.example", Notify.SUCCESS | Notify.DELAY, "rfc822;b+2Bx@b.example"),), 10, True,
        Ret.HDRS, "id1")
    assert Chat(Server(), transaction).server.commands[1:3] == [
        "MAIL FROM:<a@a.example> SIZE=10 BODY=8BITMIME RET=HDRS ENVID=id1",
        "RCPT TO:<b@b.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+2Bx@b.example"]
    assert Chat(Server(PLAIN), transaction).server.commands[1:3] == [
        "MAIL FROM:<a@a.example>", "RCPT TO:<b@b.example>"]


def test_extension_keywords_in_any_case() -> None:
    ehlo = b"250-x\r\n250-size 77\r\n250-StartTLS\r\n250-auth=LOGIN plain\r\n250 pipelining"
    offered = Chat(Server({"EHLO": ehlo})).client.extensions
    assert offered.size == 77 and offered.starttls and offered.pipelining and not offered.dsn
    assert offered.auth == {"LOGIN", "PLAIN"}


@pytest.mark.parametrize("replies", [{}, PLAIN])
@pytest.mark.parametrize(("key", "reply", "outcome", "esc"), [
    ("MAIL", b"550 5.7.1 not you", PERMFAIL, "5.7.1"),
    ("MAIL", b"451 later", TEMPFAIL, ""),
    ("MAIL", b"354 odd", TEMPFAIL, ""),
    ("RCPT", b"550-5.1.1 no\r\n550 5.1.1 one", PERMFAIL, "5.1.1"),
    ("RCPT", b"450 4.2.0 grey", TEMPFAIL, "4.2.0"),
    ("DATA", b"554 5.5.1 no", PERMFAIL, "5.5.1"),
    ("DATA", b"451 4.3.0 no", TEMPFAIL, "4.3.0"),
    ("DATA", b"250 odd", TEMPFAIL, ""),
    ("eom", b"554 5.6.0 spam", PERMFAIL, "5.6.0"),
    ("eom", b"451 4.3.0 later", TEMPFAIL, "4.3.0"),
    ("eom", b"354 odd", TEMPFAIL, ""),
])
def test_refusals_are_classified_and_the_session_goes_on(
    replies: dict[str, Answer], key: str, reply: bytes, outcome: Outcome, esc: str
) -> None:
    more: dict[str, Answer] = {}
    if key in ("MAIL", "RCPT") and not replies:
        more["DATA"] = [b"503 5.5.1 no"]
    if key == "MAIL" and not replies:
        more["RCPT"] = [b"503 5.5.1 no"] * 2
    server = Server({**replies, **more, key: [reply] * (2 if key == "RCPT" else 1)})
    chat = Chat(server, tx("b@b.example", "c@c.example"), tx("d@d.example"))
    text = "550 5.1.1 no one" if b"-" in reply else reply.decode()
    assert chat.results[:2] == [(0, outcome, esc, text), (1, outcome, esc, text)]
    assert chat.results[2:] == [(0, OK, "2.0.0", "250 2.0.0 kept")]
    assert len(chat.of(TxDone)) == 2 and not chat.of(Failed)
    assert ("RSET" in server.commands) is (key in ("RCPT", "DATA"))


def test_data_accepted_without_recipients_gets_a_lone_dot() -> None:
    server = Server({"RCPT": [b"550 5.1.1 no"], "eom": [b"554 5.5.1 nobody"]})
    chat = Chat(server, tx(), tx("d@d.example"))
    assert chat.results == [(0, PERMFAIL, "5.1.1", "550 5.1.1 no"), (0, OK, "2.0.0", "250 2.0.0 kept")]
    assert b".\r\n" in server.writes


def test_an_empty_message_is_never_sent_to_someone() -> None:
    chat = Chat(Server({"MAIL": b"550 no"}), tx())
    assert chat.server.messages == []
    assert chat.of(Failed) and chat.results == [(0, PERMFAIL, "", "550 no")]


def test_lmtp_data_accepted_without_recipients_ends_the_session() -> None:
    chat = Chat(Server({"RCPT": b"550 no"}, lmtp=True), tx(), tx())
    assert chat.of(Failed) and len(chat.results) == 1 and len(chat.of(TxDone)) == 1


def test_some_recipients_refused() -> None:
    server = Server({"RCPT TO:<no@b.example>": b"550 5.1.1 who?"})
    chat = Chat(server, tx("no@b.example", "b@b.example"))
    assert chat.results == [(0, PERMFAIL, "5.1.1", "550 5.1.1 who?"), (1, OK, "2.0.0", "250 2.0.0 kept")]
    assert chat.client.failures == 0


@pytest.mark.parametrize(("replies", "reason"), [
    ({"banner": b"554 5.3.2 go away"}, "BANNER rejected: 554 5.3.2 go away"),
    ({"banner": b"421 busy"}, "BANNER rejected: 421 busy"),
    ({"EHLO": b"502 what", "HELO": b"550 no"}, "HELO rejected: 550 no"),
    ({"banner": None}, "Connection closed unexpectedly"),
    ({"EHLO": None}, "Connection closed unexpectedly"),
    ({"banner": b"SSH-2.0-x"}, "Bad response: not a reply"),
    ({"banner": b"220 a\r\n250 b\r\n250 c"}, "Remote host sent too much data"),
])
def test_sessions_that_never_begin(replies: dict[str, Answer], reason: str) -> None:
    chat = Chat(Server(replies), tx())
    assert [failed.reason for failed in chat.of(Failed)] == [reason]
    assert chat.closed and not chat.results and not chat.of(TxAborted)


def test_ehlo_refused_is_helo() -> None:
    chat = Chat(Server({"EHLO": b"502 5.5.1 what?"}), tx())
    assert chat.server.commands[:2] == ["EHLO me.example", "HELO me.example"]
    assert chat.results[0][1] is OK


def test_lhlo_refused_is_the_end() -> None:
    chat = Chat(Server({"LHLO": b"502 what"}, lmtp=True), tx())
    assert chat.of(Failed) == [Failed("LHLO rejected: 502 what")]


@pytest.mark.parametrize(("key", "safe"), [("MAIL", True), ("RCPT", True), ("DATA", True), ("eom", False)])
@pytest.mark.parametrize("reply", [None, b"421 4.3.2 shutting down"])
@pytest.mark.parametrize("replies", [{}, PLAIN])
def test_an_end_in_the_middle(replies: dict[str, Answer], key: str, safe: bool, reply: bytes | None) -> None:
    chat = Chat(Server({**replies, key: reply}), tx("b@b.example", "c@c.example"))
    assert len(chat.of(Failed)) == 1 and chat.closed
    if key == "eom" and reply is not None:
        assert [outcome for _, outcome, _, _ in chat.results] == [TEMPFAIL, TEMPFAIL]
        assert len(chat.of(TxDone)) == 1
    else:
        assert chat.of(TxAborted) == [TxAborted((0, 1), safe)]
        assert chat.of(Failed) == [Failed("421 4.3.2 shutting down", "4.3.2") if reply else
                                   Failed("Connection closed unexpectedly")]


def test_both_transactions_are_aborted_and_only_the_second_is_safe() -> None:
    chat = Chat(Server({"eom": None}), tx(), tx("c@c.example"), ahead=True)
    assert chat.of(TxAborted) == [TxAborted((0,), False), TxAborted((0,), True)]


def test_refused_in_the_middle_of_mail_data() -> None:
    client = ready_client()
    client.send(tx())
    assert client.receive(b"250 ok\r\n250 ok\r\n354 go\r\n") == [NeedBody()]
    client.body(b"x" * 100, False)
    assert client.receive(b"552 5.3.4 too much\r\n") == [
        RcptDone(0, PERMFAIL, "5.3.4", "552 5.3.4 too much"), TxDone(), Failed("552 5.3.4 too much", "5.3.4"),
        effects.Close()]
    assert client.body(b"more", True) == [] and client.timeout() == [] and client.receive(b"250 ok\r\n") == []


def ready_client(ehlo: bytes = b"250-x\r\n250 PIPELINING\r\n", **settings: Any) -> SmtpClient:
    client = SmtpClient("me.example", **settings)
    client.start()
    client.receive(b"220 hello\r\n")
    client.receive(ehlo)
    return client


def test_timeout_says_so() -> None:
    client = ready_client()
    client.send(tx())
    assert client.timeout() == [TxAborted((0,), True), Failed("Connection timeout"), effects.Close()]
    assert client.state is State.CLOSED


class TestTls:
    TLS = b"250-mx.example\r\n250 STARTTLS"

    def test_offered_and_used(self) -> None:
        chat = Chat(Server({"EHLO": self.TLS}), tx(), starttls=StartTls.OFFERED)
        assert chat.server.commands[:3] == ["EHLO me.example", "STARTTLS", "EHLO me.example"]
        assert chat.results[0][1] is OK

    @pytest.mark.parametrize("replies", [{}, {"EHLO": TLS, "STARTTLS": b"454 4.7.0 not now"}])
    def test_opportunistic_goes_on_in_the_clear(self, replies: dict[str, Answer]) -> None:
        chat = Chat(Server(replies), tx(), starttls=StartTls.OFFERED)
        assert chat.results[0][1] is OK

    @pytest.mark.parametrize(("replies", "reason"), [
        ({}, "TLS required but not supported by remote host"),
        ({"EHLO": TLS, "STARTTLS": b"454 4.7.0 no"}, "STARTTLS rejected: 454 4.7.0 no"),
        ({"EHLO": b"502 what"}, "EHLO rejected: 502 what"),
    ])
    def test_required_or_nothing(self, replies: dict[str, Answer], reason: str) -> None:
        chat = Chat(Server(replies), tx(), starttls=StartTls.REQUIRED)
        assert [failed.reason for failed in chat.of(Failed)] == [reason]
        assert not any(command.startswith("MAIL") for command in chat.server.commands)

    def test_never_does_not(self) -> None:
        assert "STARTTLS" not in Chat(Server({"EHLO": self.TLS}), tx()).server.commands

    def test_nothing_said_in_the_clear_survives_the_handshake(self) -> None:
        client = ready_client(b"250-SIZE 5\r\n250 STARTTLS\r\n", starttls=StartTls.OFFERED)
        assert client.receive(b"220 go\r\n250 injected\r\n")[-2:] == [
            Failed("Remote host sent too much data"), effects.Close()]
        client = ready_client(b"250-SIZE 5\r\n250 STARTTLS\r\n", starttls=StartTls.OFFERED)
        assert client.receive(b"220 go\r\n") == [effects.StartTls()]
        assert client.receive(b"250 injected\r\n") == []
        assert client.tls_ready() == [effects.Send(b"EHLO me.example\r\n")]
        assert client.receive(b"250 x\r\n") == [Ready()]
        assert client.extensions.size == 0

    def test_an_end_in_the_handshake(self) -> None:
        client = ready_client(b"250 x\r\n250 STARTTLS\r\n".replace(b"250 x", b"250-x"), starttls=StartTls.OFFERED)
        client.receive(b"220 go\r\n")
        assert client.lost("IO Error: TLS: x") == [Failed("IO Error: TLS: x"), effects.Close()]
        assert client.tls_ready() == []


class TestAuth:
    @pytest.mark.parametrize(("offer", "said"), [
        (b"250-x\r\n250 AUTH LOGIN PLAIN", ["AUTH PLAIN " + CREDENTIALS]),
        (b"250-x\r\n250 AUTH LOGIN", ["AUTH LOGIN", "dXNlcg==", "cGFzcw=="]),
    ])
    def test_mechanisms(self, offer: bytes, said: list[str]) -> None:
        replies: dict[str, Answer] = {
            "EHLO": offer, "AUTH LOGIN": b"334 VXNlcg==", "dXNlcg==": b"334 UGFzcw==", "cGFzcw==": b"235 2.7.0 Ok"}
        chat = Chat(Server(replies), tx(), credentials=CREDENTIALS, secure=True)
        assert chat.server.commands[1 : 1 + len(said)] == said
        assert chat.results[0][1] is OK

    def test_a_server_that_repeats_it_is_not_quoted(self) -> None:
        password = b64encode(b"pass").decode()
        echo = f"535 no: AUTH PLAIN {CREDENTIALS} {password} pass".encode()
        chat = Chat(Server({"EHLO": b"250-x\r\n250 AUTH PLAIN", "AUTH": echo}), tx(), credentials=CREDENTIALS,
                    secure=True)
        assert [failed.reason for failed in chat.of(Failed)] == ["AUTH rejected: 535 no: AUTH PLAIN ... ... ..."]

    @pytest.mark.parametrize(("replies", "secure", "reason"), [
        ({"EHLO": b"250-x\r\n250 AUTH PLAIN"}, False, "Refuse to AUTH over insecure channel"),
        ({}, True, "AUTH not advertised"),
        ({"EHLO": b"250-x\r\n250 AUTH CRAM-MD5"}, True, "no supported AUTH method"),
        ({"EHLO": b"250-x\r\n250 AUTH PLAIN", "AUTH": b"535 5.7.8 no"}, True, "AUTH rejected: 535 5.7.8 no"),
        ({"EHLO": b"502 what"}, True, "EHLO rejected: 502 what"),
    ])
    def test_without_it_nothing_is_sent(self, replies: dict[str, Answer], secure: bool, reason: str) -> None:
        chat = Chat(Server(replies), tx(), credentials=CREDENTIALS, secure=secure)
        assert [failed.reason for failed in chat.of(Failed)] == [reason]
        assert not chat.server.messages
        assert secure or not any(command.startswith("AUTH") for command in chat.server.commands)

    def test_credentials_that_are_none(self) -> None:
        chat = Chat(Server({"EHLO": b"250-x\r\n250 AUTH LOGIN"}), tx(), credentials="AHVzZXI", secure=True)
        assert chat.of(Failed) == [Failed("credentials are malformed")]


def test_what_would_break_a_line_is_never_said() -> None:
    with pytest.raises(ValueError):
        SmtpClient("me\r\nMAIL FROM:<x>")
    client = ready_client()
    with pytest.raises(ValueError):
        client.send(tx("b@b.example>\r\nDATA"))
    assert client.state is State.READY
    assert client.send(tx())


PIECES = st.sampled_from([*DEFAULTS.values(), b"421 4.3.2 off", b"550 5.1.1 no", b"451 x", b"250-", b"354", b"garbage",
                          b"334 x", b"\xff\x00", b"", b"250-STARTTLS\r\n250-PIPELINING\r\n250 AUTH LOGIN"])


@settings(max_examples=200)
@given(st.lists(st.one_of(PIECES.map(lambda piece: piece + b"\r\n"), st.binary(max_size=20)), max_size=25),
       st.booleans(), st.sampled_from(list(StartTls)), st.booleans(), st.integers(0, 4))
def test_garbage_never_raises_and_every_recipient_is_accounted_for(
    answers: list[bytes], lmtp: bool, starttls: StartTls, secure: bool, ahead: int
) -> None:
    """Whatever a server says: no exception, each recipient decided once or aborted, one end, nothing after it."""
    client = SmtpClient("me.example", lmtp=lmtp, starttls=starttls, secure=secure,
                        credentials=CREDENTIALS if secure else "")
    began: list[int] = []          # recipients of transactions under way
    open_rcpts: list[set[int]] = []
    ended = False

    def begin(count: int) -> Transaction:
        began.append(count)
        open_rcpts.append(set(range(count)))
        return tx(*[f"r{index}@b.example" for index in range(count)])

    def run(wanted: list[Effect]) -> None:
        nonlocal ended
        for effect in wanted:
            assert not ended
            match effect:
                case Ready() if client.state is State.READY:
                    assert not open_rcpts
                    run(client.send(begin(2)))
                case NeedBody():
                    run(client.body(BODY, True, begin(1) if len(began) < ahead else None))
                case RcptDone(index, _, _, _):
                    open_rcpts[0].remove(index)
                case TxDone():
                    assert open_rcpts.pop(0) == set()
                case TxAborted(undecided, _):
                    assert open_rcpts.pop(0) == set(undecided) != set()
                case effects.StartTls():
                    run(client.tls_ready())
                case effects.Close():
                    ended = True
                case _:
                    pass

    run(client.start())
    for answer in answers:
        run(client.receive(answer))
    if not ended:
        run(client.timeout())
    assert ended and not open_rcpts and client.receive(b"250 ok\r\n") == []
