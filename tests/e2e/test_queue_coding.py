"""A queue that is compressed and encrypted: what lies there is not readable, and all of it arrives."""

from pathlib import Path

import pytest

from pysmtpd.base.procs import Proc
from tests.e2e.conftest import Start
from tests.support import mail
from tests.support.daemon import Daemon, until
from tests.support.sink import Sink

KEY = b"0123456789abcdef-0123456789abcde"
RULES = 'listen on 127.0.0.1 port {port}\naction "out" relay host {url}\nmatch from any for any action "out"\n'
TEXT = b"quick brown fox"


def change(daemon: Daemon, settings: str, rules: str) -> None:
    daemon.config.write_text(settings + rules, encoding="utf-8")


def readable(state: Path) -> list[Path]:
    """The files of a spool in which the text of a message stands."""
    return [path for path in state.rglob("*") if path.is_file() and TEXT in path.read_bytes()]


def refused(daemon: Daemon) -> str:
    """What the log says of a start that fails."""
    before = len(daemon.log)
    with pytest.raises(AssertionError, match="does not start"):
        daemon.start()
    assert daemon.wait() == 1
    return daemon.log[before:]


def test_it_survives_and_needs_its_key(start: Start, port: int) -> None:
    with Sink() as sink:
        rules = RULES.format(port=port, url=sink.url)
        daemon = start('queue compression\nqueue encryption "stdin"\n' + rules, arguments=("-v", "-P", "mta"),
                       stdin=KEY + b"\n")
        daemon.until_logged("queue: queue compression enabled")
        daemon.until_logged("queue: queue encryption enabled")
        mail.send(port, "x@far.example", "small")
        mail.send(port, "x@far.example", "large", size=400_000)
        daemon.kill(Proc.QUEUE)
        daemon.wait()
        assert readable(daemon.state) == []
        change(daemon, "", rules)
        assert "2 messages are encrypted, and smtpd.conf has no queue encryption" in refused(daemon)
        change(daemon, f'queue encryption "{KEY[::-1].decode()}"\n', rules)
        assert "2 messages are encrypted, with another key" in refused(daemon)
        change(daemon, 'queue encryption "stdin"\n', rules)
        daemon.stdin = b"short\n"
        assert "it must be exactly 32 octets, this has 5" in refused(daemon)
        change(daemon, f'queue encryption "{KEY.decode()}"\n', rules)
        daemon.arguments = ["-v"]
        daemon.start()
        mail.send(port, "x@far.example", "third")
        until(lambda: len(sink.messages) == 3, "all messages", 30)
        bodies = {name: one.data for one in sink.messages for name in mail.names_in([one.data])}
        assert sorted(bodies) == ["large", "small", "third"]
        # Date and Message-ID were completed.
        assert bodies["large"].partition(b"\r\n\r\n")[2] == mail.letter("large", 400_000).partition(b"\r\n\r\n")[2]
        assert daemon.stop() == 0
