"""An SMTP or LMTP server in memory: octets in, octets out, answers by rule.

Understands just enough to be a peer for our client: commands, mail data, STARTTLS, AUTH.  ``replies`` overrules any
answer: by command line, by verb, ``banner``, ``eom``; a list is used up from its start; None closes without a word.
"""

from collections.abc import Sequence

Answer = bytes | None | Sequence[bytes | None]

DEFAULTS: dict[str, bytes] = {
    "banner": b"220 mx.example ESMTP",
    "EHLO": b"250-mx.example\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250-DSN\r\n250 PIPELINING",
    "LHLO": b"250-mx.example\r\n250-8BITMIME\r\n250 PIPELINING",
    "HELO": b"250 mx.example",
    "MAIL": b"250 2.1.0 Ok",
    "RCPT": b"250 2.1.5 Ok",
    "DATA": b"354 go on",
    "BDAT": b"250 2.0.0 kept",
    "eom": b"250 2.0.0 kept",
    "RSET": b"250 2.0.0 Ok",
    "QUIT": b"221 2.0.0 bye",
    "STARTTLS": b"220 2.0.0 go on",
    "AUTH": b"235 2.7.0 Ok",
}


class Server:
    """One session."""

    def __init__(self, replies: dict[str, Answer] | None = None, *, lmtp: bool = False, tls: int = 0) -> None:
        self.replies = {key: list(value) if isinstance(value, list | tuple) else value
                        for key, value in (replies or {}).items()}
        self.lmtp = lmtp
        self.closed = False
        self.commands: list[str] = []
        self.messages: list[tuple[str, list[str], bytes]] = []
        self.writes: list[bytes] = []
        self.tls = tls             # handshakes; -1: it waits for one before it greets
        self._buffer = b""
        self._data: bytes | None = None
        self._sender = ""
        self._chunks = b""         # of BDAT
        self._rcpts: list[str] = []

    def greet(self) -> bytes:
        return self._answer("banner")

    def receive(self, data: bytes) -> bytes:
        """What the client wrote in one go; the answer to it."""
        self.writes.append(data)
        self._buffer += data
        out = b""
        while not self.closed:
            before = self._buffer
            out += self._mail_data() if self._data is not None else self._command()
            if self._buffer == before:
                return out
        return out

    def _mail_data(self) -> bytes:
        whole = b"\r\n" + self._buffer
        end = whole.find(b"\r\n.\r\n")
        if end < 0:
            return b""
        self._buffer = whole[end + 5 :]
        body = whole[2 : end + 2].replace(b"\r\n..", b"\r\n.")
        body = body.removeprefix(b".") if body.startswith(b"..") else body
        self._data = None
        count = len(self._rcpts) if self.lmtp else 1
        answers = [self._answer("eom") for _ in range(count)]
        if any(answer.startswith(b"2") for answer in answers):
            self.messages.append((self._sender, self._rcpts, body))
        self._rcpts = []
        return b"".join(answers)

    def _command(self) -> bytes:
        line, end, rest = self._buffer.partition(b"\r\n")
        if not end:
            return b""
        size = int(line.split()[1]) if line.startswith(b"BDAT ") else 0
        if len(rest) < size:
            return b""
        self._chunks += rest[:size]
        self._buffer = rest[size:]
        text = line.decode()
        self.commands.append(text)
        verb = text.partition(" ")[0].upper()
        reply = self._answer(verb, text)
        if reply.startswith(b"2"):
            self._note(verb, text)
        if text.endswith(" LAST"):
            self.messages.append((self._sender, self._rcpts, self._chunks))
            self._chunks = b""
        if verb == "DATA" and reply.startswith(b"3"):
            self._data = b""
        if verb == "QUIT":
            self.closed = True
        return reply

    def _note(self, verb: str, text: str) -> None:
        path = text[text.find("<") + 1 : text.find(">")]
        if verb == "MAIL":
            self._sender, self._rcpts = path, []
        elif verb == "RCPT":
            self._rcpts.append(path)
        elif verb == "RSET":
            self._rcpts = []
        elif verb == "STARTTLS":
            self.tls += 1

    def _answer(self, verb: str, text: str = "") -> bytes:
        answer: object = self.replies.get(text, self.replies.get(verb, DEFAULTS.get(verb, b"500 5.5.1 what?")))
        if isinstance(answer, list):
            answer = answer.pop(0) if answer else DEFAULTS[verb]
        if answer is None:
            self.closed = True
            return b""
        assert isinstance(answer, bytes)
        if answer.startswith(b"421"):
            self.closed = True
        return answer + b"\r\n"
