"""Where the real daemon logs to, and how it looks."""

import json
import os
import re
import signal
import smtplib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.daemon import Daemon, until

CONF = """listen on 127.0.0.1 port {port}
log format {format}
log destination {destination}
match from any for any reject "550 5.7.1 No <%{{rcpt}}> here"
"""


@contextmanager
def started(where: Path, user: str, port: int, format: str, destination: str) -> Iterator[Daemon]:
    text = CONF.format(port=port, format=format, destination=destination)
    daemon = Daemon(text, user=user, where=where)
    where.chmod(0o777)
    # With -d all would go to standard error.
    daemon.process = daemon._popen(daemon.command("-F", "-v"))
    try:
        yield daemon
    finally:
        daemon.remove()


def refused(port: int) -> tuple[int, bytes]:
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
        client.ehlo()
        client.mail("a@b.example")
        return client.rcpt('"x\\" result=\\"y"@c.example')


def test_lines_of_json_in_a_file_that_is_rotated(where: Path, user: str, port: int) -> None:
    path = where / "mail.log"

    def lines(file: Path) -> list[dict[str, str]]:
        text = file.read_text() if file.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def events(file: Path) -> set[str]:
        return {line["event"] for line in lines(file) if "event" in line}

    with started(where, user, port, "json", f'file "{path}"') as daemon:
        until(lambda: any(line["text"] == "info: ready" for line in lines(path)), "the start")
        assert refused(port)[0] == 550
        until(lambda: "smtp-disconnected" in events(path), "the session's end")
        (line,) = [one for one in lines(path) if one.get("event") == "smtp-refused-rcpt"]
        assert re.fullmatch("[0-9a-f]{16}", line["id"])
        assert (line["level"], line["process"], line["rcpt"]) == ("info", "smtp", '"x\\" result=\\"y"@c.example')
        assert line["text"] == f'{line["id"]} smtp refused-rcpt to=<{line["rcpt"]}> why="{line["why"]}"'
        assert path.stat().st_mode & 0o777 == 0o640
        path.rename(where / "mail.log.1")
        os.kill(daemon.pid, signal.SIGHUP)
        until(lambda: path.exists() and "logging to" in path.read_text(), "the new file")
        refused(port)
        until(lambda: "smtp-disconnected" in events(path), "the second session")
        assert "smtp-disconnected" in events(where / "mail.log.1")
        assert daemon.stop() == 0
        assert lines(path)[-1]["event"] == "exiting"


def test_lines_of_text_in_a_file_begin_as_those_of_syslog(where: Path, user: str, port: int) -> None:
    path = where / "mail.log"
    with started(where, user, port, "text", f'file "{path}"') as daemon:
        until(lambda: path.exists() and "info: ready" in path.read_text(), "the start")
        assert refused(port) == (550, b'5.7.1 No <"x\\" result=\\"y"@c.example> here')
        until(lambda: "smtp disconnected" in path.read_text(), "the session's end")
        daemon.stop()
        first = path.read_text().splitlines()[0]
    assert re.fullmatch(r"[A-Z][a-z]{2} [ 1-3][0-9] [0-9:]{8} \S+ smtpd\[[0-9]+\]: info: pysmtpd \S+ starting", first)


def test_standard_error_without_d(where: Path, user: str, port: int) -> None:
    with started(where, user, port, "json", "stderr") as daemon:
        until(lambda: "info: ready" in daemon.log, "the start")
        refused(port)
        until(lambda: "smtp-disconnected" in daemon.log, "the session's end")
        daemon.stop()
        text = daemon.log
    assert {json.loads(line)["process"] for line in text.splitlines()} >= {"parent", "smtp"}


def test_with_d_all_goes_to_standard_error(where: Path, user: str, port: int) -> None:
    path = where / "mail.log"
    text = CONF.format(port=port, format="text", destination=f'file "{path}"')
    with Daemon(text, user=user, where=where) as daemon:
        refused(port)
        daemon.until_logged("smtp disconnected reason=quit")
        assert not path.exists()


def test_a_file_that_cannot_be_opened_stops_the_start(where: Path, user: str, port: int) -> None:
    path = where / "mail.log"
    path.symlink_to(where / "elsewhere")
    (where / "elsewhere").write_text("")
    with started(where, user, port, "text", f'file "{path}"') as daemon:
        assert daemon.wait() == 1
        assert f"pysmtpd: {path}: " in daemon.log
