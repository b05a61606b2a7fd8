"""Messages for end-to-end tests: sent by numbers, and found again by them."""

import contextlib
import re
import smtplib
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

ID = re.compile(rb"^X-Test: (\S+)\r?$", re.MULTILINE)
SENDER = "sender@load.example"


def letter(name: str, size: int = 600) -> bytes:
    """A message that can be recognised by its name."""
    head = f"From: <{SENDER}>\r\nSubject: {name}\r\nX-Test: {name}\r\n\r\n".encode()
    line = b"The quick brown fox jumps over the lazy dog. 0123456789\r\n"
    return head + line * max(1, (size - len(head)) // len(line))


def send(port: int, rcpt: str | list[str], name: str, *, sender: str = SENDER, size: int = 600,
         address: str = "127.0.0.1") -> None:
    """One message over one connection.  Raises smtplib.SMTPException when it is not taken."""
    with smtplib.SMTP(address, port, timeout=30) as client:
        client.sendmail(sender, rcpt, letter(name, size))


def names_in(pieces: Iterable[bytes]) -> Counter[str]:
    """How often each message is in these files or bodies."""
    found: Counter[str] = Counter()
    for piece in pieces:
        found.update(name.decode() for name in ID.findall(piece)[:1])
    return found


def maildir(path: Path) -> list[bytes]:
    """All messages of a maildir."""
    texts = []
    for file in sorted(path.glob("new/*")):
        with contextlib.suppress(FileNotFoundError):
            texts.append(file.read_bytes())
    return texts


class Load:
    """Sessions that send until they are stopped, through every fault; ``accepted`` is what was answered 250."""

    def __init__(self, port: int, rcpt: str, sessions: int = 4, prefix: str = "load") -> None:
        self.accepted: list[str] = []
        self.failed = 0
        self._port, self._rcpt, self._prefix = port, rcpt, prefix
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(at,), daemon=True) for at in range(sessions)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, session: int) -> None:
        number = 0
        while not self._stop.is_set():
            try:
                with smtplib.SMTP("127.0.0.1", self._port, timeout=20) as client:
                    for _ in range(5):
                        number += 1
                        name = f"{self._prefix}-{session}-{number}"
                        client.sendmail(SENDER, [self._rcpt], letter(name, 4096))
                        with self._lock:
                            self.accepted.append(name)
            except (OSError, smtplib.SMTPException):
                with self._lock:
                    self.failed += 1
                self._stop.wait(0.02)
