"""lmtp: against a server that says what it was told to say."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from pysmtpd.deliver.lmtp import Lmtp, parse_destination
from pysmtpd.deliver.verdict import DELIVERED, Failed, Gone, Verdict
from pysmtpd.messages import Outcome
from pysmtpd.session.client_commands import Recipient, Transaction

TX = Transaction("a@example.org", (Recipient("joe"),), 100, False)
GOOD = {"": "220 hi", "LHLO": "250-x\r\n250-SIZE 1000\r\n250 PIPELINING", "MAIL": "250 ok", "RCPT": "250 ok",
        "DATA": "354 go", ".": "250 2.1.5 done", "RSET": "250 ok",
        "QUIT": "221 bye"}


class Server:
    """One LMTP session: a reply for each verb; None closes."""

    def __init__(self, path: Path, replies: dict[str, str | None]) -> None:
        self.lines: list[bytes] = []
        self._replies = {**GOOD, **replies}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        sock.settimeout(10)
        # A client that has its answer need not listen to the rest.
        with sock, sock.makefile("rb") as file, contextlib.suppress(OSError):
            self._converse(sock, file)

    def _converse(self, sock: socket.socket, file: BinaryIO) -> None:
        in_data = False
        if not self._say(sock, ""):
            return
        while line := file.readline():
            self.lines.append(line)
            if line in (b"one\n", b"two\n"):
                continue               # what a chunk held
            verb = line[:4].decode().strip() if not in_data else "." if line == b".\r\n" else "-"
            if verb == "-":
                continue
            if not self._say(sock, verb) or verb == "QUIT":
                return
            in_data = verb == "DATA" and (self._replies["DATA"] or "").startswith("354")

    def _say(self, sock: socket.socket, verb: str) -> bool:
        reply = self._replies[verb]
        if reply is not None:
            sock.sendall(reply.encode() + b"\r\n")
        return reply is not None

    def close(self) -> None:
        self._thread.join(10)
        self._listener.close()


Make = Callable[..., tuple[Server, str]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Make]:
    made: list[Server] = []

    def make(**replies: str | None) -> tuple[Server, str]:
        path = tmp_path / "s"
        made.append(Server(path, {("." if key == "EOM" else key.replace("BANNER", "")): value
                                  for key, value in replies.items()}))
        return made[-1], str(path)

    yield make
    for one in made:
        one.close()


def send(path: str, *pieces: bytes) -> Verdict:
    try:
        one = Lmtp(path, TX, timeout=10)
        for piece in pieces:
            one.write(piece)
        return one.finish()
    except Failed as failed:
        return failed.verdict


def test_a_message(server: Make) -> None:
    one, path = server()
    assert send(path, b"a\r\n.\r", b"\n.b\r\n") is DELIVERED
    one.close()
    assert b"".join(one.lines).split(b"DATA\r\n")[1] == b"a\r\n..\r\n..b\r\n.\r\nQUIT\r\n"
    assert one.lines[0] == b"LHLO localhost\r\n"
    assert b"MAIL FROM:<a@example.org> SIZE=100\r\n" in one.lines and b"RCPT TO:<joe>\r\n" in one.lines


@pytest.mark.parametrize("replies, outcome, esc, words", [
    ({"RCPT": "550 5.1.1 no such user"}, Outcome.PERMFAIL, "5.1.1", b"LMTP server error: 550 5.1.1 no such user"),
    ({"RCPT": "452 4.2.2 full"}, Outcome.TEMPFAIL, "4.2.2", b"LMTP server error: 452 4.2.2 full"),
    ({"MAIL": "553 no"}, Outcome.PERMFAIL, "5.0.0", b"LMTP server error: 553 no"),
    ({"DATA": "451 later"}, Outcome.TEMPFAIL, "4.0.0", b"LMTP server error: 451 later"),
    ({"EOM": "552 5.2.3 too big"}, Outcome.PERMFAIL, "5.2.3", b"LMTP server error: 552 5.2.3 too big"),
    ({"EOM": "250-one\r\n250 two"}, Outcome.OK, "2.0.0", b"Delivered"),
    ({"BANNER": "554 go away"}, Outcome.TEMPFAIL, "4.4.2", b"LMTP server error: BANNER rejected: 554 go away"),
    ({"LHLO": "500 what?"}, Outcome.TEMPFAIL, "4.4.2", b"LMTP server error: LHLO rejected: 500 what?"),
    ({"LHLO": "garbage"}, Outcome.TEMPFAIL, "4.4.2", b"LMTP server error: Bad response: "),
    ({"BANNER": None}, Outcome.TEMPFAIL, "4.4.2", b"LMTP server error: Connection closed unexpectedly"),
    ({"EOM": None}, Outcome.TEMPFAIL, "4.4.2", b"LMTP server error: Connection closed unexpectedly"),
    ({"LHLO": "250-x\r\n250 SIZE 99"}, Outcome.PERMFAIL, "5.3.4", b"LMTP server error: message is too big for it"),
])
def test_replies(
    server: Make, replies: dict[str, str | None], outcome: Outcome, esc: str, words: bytes
) -> None:
    _, path = server(**replies)
    verdict = send(path, b"x\r\n" * 100)
    assert (verdict.outcome, verdict.esc) == (outcome, esc)
    assert verdict.text.startswith(words)


def test_a_large_message(server: Make) -> None:
    one, path = server(LHLO="250 x")
    body = (b"y" * 98 + b"\r\n") * 600
    assert send(path, *[body] * 20) is DELIVERED
    one.close()
    assert sum(len(line) for line in one.lines if line.startswith(b"y")) == 20 * len(body)


def test_nobody_listens(tmp_path: Path) -> None:
    verdict = send(str(tmp_path / "s"))
    assert (verdict.outcome, verdict.esc) == (Outcome.TEMPFAIL, "4.4.1")
    verdict = send("127.0.0.1:1")
    assert (verdict.outcome, verdict.esc) == (Outcome.TEMPFAIL, "4.4.1") and b"refused" in verdict.text


def test_a_server_that_says_nothing(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    with listener, pytest.raises(Failed, match="no answer in time"):
        Lmtp(str(tmp_path / "s"), TX, timeout=0.1)


def test_mda_goes_away(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    mine, theirs = socket.socketpair()
    theirs.close()
    with listener, mine, pytest.raises(Gone):
        Lmtp(str(tmp_path / "s"), TX, timeout=10, watch=mine.fileno())


@pytest.mark.parametrize("text, wanted", [
    ("/run/lmtp", ("/run/lmtp", 0)), ("", ("localhost", 25)), ("host", ("host", 25)), ("host:24", ("host", 24)),
    ("[::1]", ("::1", 25)), ("[::1]:24", ("::1", 24)),
])
def test_destinations(text: str, wanted: tuple[str, int]) -> None:
    assert parse_destination(text) == wanted


@pytest.mark.parametrize("text", ["host:", ":24", "host:x", "host:0", "host:65536", "[::1", "[::1]x", "[::1]:", "::1"])
def test_bad_destinations(text: str) -> None:
    with pytest.raises(Failed):
        parse_destination(text)


@pytest.mark.parametrize(("tx", "offered", "said"), [
    (TX, True, b""), (TX._replace(has_8bit=True), True, b" SMTPUTF8"), (TX._replace(has_8bit=True), False, b""),
    (TX._replace(smtputf8=True), True, b" SMTPUTF8"), (TX._replace(smtputf8=True), False, None),
])
def test_only_addresses_need_smtputf8_and_headers_may_have_it(
        server: Make, tx: Transaction, offered: bool, said: bytes | None) -> None:
    one, path = server(**({"LHLO": "250-x\r\n250 SMTPUTF8"} if offered else {}))
    if said is None:
        with pytest.raises(Failed) as failed:
            Lmtp(path, tx, timeout=10)
        assert failed.value.verdict.esc == "5.6.7"
        return
    Lmtp(path, tx, timeout=10).abort()
    [mail] = [line for line in one.lines if line.startswith(b"MAIL")]
    assert (b" SMTPUTF8" in mail) is bool(said)


def test_binary_mail_is_refused_by_a_server_that_cannot_take_it(server: Make) -> None:
    one, path = server()
    with pytest.raises(Failed) as failed:
        Lmtp(path, TX._replace(binary=True), timeout=10)
    assert (failed.value.verdict.outcome, failed.value.verdict.esc) == (Outcome.PERMFAIL, "5.6.1")
    assert not any(line.startswith(b"MAIL") for line in one.lines)


def test_binary_mail_goes_in_chunks(server: Make) -> None:
    one, path = server(LHLO="250-x\r\n250-CHUNKING\r\n250 BINARYMIME", BDAT="250 2.0.0 ok")
    sink = Lmtp(path, TX._replace(binary=True), timeout=10)
    sink.write(b"one\n")
    sink.write(b"")
    sink.write(b"two\n")
    assert sink.finish() == DELIVERED
    assert one.lines[1:7] == [b"MAIL FROM:<a@example.org> BODY=BINARYMIME\r\n", b"RCPT TO:<joe>\r\n",
                              b"BDAT 4\r\n", b"one\n", b"BDAT 4\r\n", b"two\n"]
    assert one.lines[7] == b"BDAT 0 LAST\r\n"
