"""sendmail against a fake daemon: the dialogue, what is added, what becomes of a message that is refused."""

import io
import os
import socket
import threading
from pathlib import Path

import pytest

from pysmtpd.messages import CtlDone
from smtpctl import enqueue, submit
from smtpctl.options import Usage, read_options
from tests.smtpctl.fake import Smtp, daemon

LETTER = b"Subject: hello\n\nbody\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYSMTPD_STATE_DIR", str(tmp_path))
    return tmp_path


def sendmail(home: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str, text: bytes = LETTER,
             smtp: Smtp | None = None) -> tuple[int, Smtp]:
    smtp = smtp or Smtp()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    with daemon(home / "smtpd.sock", lambda _: CtlDone(1, False, "server disallowed submission request"), smtp):
        return enqueue.main("sendmail", list(arguments)), smtp


def fields(data: bytes) -> dict[str, str]:
    head = data.partition(b"\r\n\r\n")[0].decode()
    return {line.partition(": ")[0]: line.partition(": ")[2] for line in head.split("\r\n")}


def test_a_message_goes_in(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, smtp = sendmail(home, monkeypatch, "-f", "me@here.example", "you@there.example", "root")
    assert status == 0
    assert smtp.commands[0] == "EHLO localhost"
    assert smtp.commands[1].startswith("MAIL FROM:<me@here.example> SIZE=")
    assert smtp.commands[2:] == ["RCPT TO:<you@there.example>", "RCPT TO:<root@mail.example>", "DATA", "QUIT"]
    assert fields(smtp.data)["From"] == "<me@here.example>"
    assert fields(smtp.data)["Date"].endswith(")")
    assert smtp.data.endswith(b"\r\n\r\nbody\r\n")


def test_the_sender_is_the_user_or_who_the_header_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = enqueue.User(False)
    _, smtp = sendmail(home, monkeypatch, "x@y")
    assert smtp.commands[1].startswith(f"MAIL FROM:<{user.name}@mail.example>")
    assert f"<{user.name}@mail.example>" in fields(smtp.data)["From"]
    (home / "smtpd.sock").unlink()
    _, smtp = sendmail(home, monkeypatch, "x@y", text=b"From: root (Cron Daemon)\n\nx\n")
    assert smtp.commands[1].startswith("MAIL FROM:<root@mail.example>")
    assert fields(smtp.data)["From"] == "root (Cron Daemon)"


@pytest.mark.parametrize("given", ["", "<>"])
def test_the_null_reverse_path(given: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, smtp = sendmail(home, monkeypatch, "-f", given, "x@y")
    assert smtp.commands[1].startswith("MAIL FROM:<> ")


def test_recipients_from_the_header_and_no_bcc_leaves(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"To: A <a@x>, b@x\nCc: c@x,\n d@x\nBcc: e@x,\n\tf@x\nSubject: s\n\nbody\n"
    _, smtp = sendmail(home, monkeypatch, "-t", "-i", "a@x", text=text)
    assert smtp.commands[2:-2] == [f"RCPT TO:<{n}@x>" for n in "abcdef"]
    assert b"e@x" not in smtp.data and b"f@x" not in smtp.data and b"Bcc" not in smtp.data
    assert b"To: A <a@x>, b@x\r\nCc: c@x,\r\n d@x\r\nSubject: s\r\n" in smtp.data


def test_bcc_is_removed_without_t_as_well(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, smtp = sendmail(home, monkeypatch, "x@y,z@y", text=b"Bcc: secret@x\nReturn-Path: <q@q>\n\nx\n")
    assert smtp.commands[2:-2] == ["RCPT TO:<x@y>", "RCPT TO:<z@y>"]
    assert b"secret" not in smtp.data and b"Return-Path" not in smtp.data


def test_eight_bits_and_delivery_notifications(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, smtp = sendmail(home, monkeypatch, "-f", "a@b", "-N", "SUCCESS,FAILURE", "-R", "HDRS", "-V", "id7", "x@y",
                       text=b"Subject: x\n\n\xe9\n")
    assert smtp.commands[1].startswith("MAIL FROM:<a@b> BODY=8BITMIME SIZE=")
    assert smtp.commands[1].endswith(" RET=HDRS ENVID=id7")
    assert smtp.commands[2] == "RCPT TO:<x@y> NOTIFY=SUCCESS,FAILURE"
    assert b"\xe9" in smtp.data


@pytest.mark.parametrize("rcpt, offered, said", [
    ("jürgen@y", True, True), ("x@y", True, False), ("jürgen@y", False, False)])
def test_addresses_beyond_ascii(home: Path, monkeypatch: pytest.MonkeyPatch, rcpt: str, offered: bool,
                                said: bool) -> None:
    smtp = Smtp(extensions=("8BITMIME", *(["SMTPUTF8"] if offered else [])))
    sendmail(home, monkeypatch, rcpt, smtp=smtp)
    assert smtp.commands[1].endswith(" SMTPUTF8") is said


def test_many_recipients_without_pipelining(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [f"u{n}@y" for n in range(120)]
    for smtp in (Smtp(), Smtp(extensions=("8BITMIME",))):
        status, _ = sendmail(home, monkeypatch, *many, smtp=smtp)
        assert status == 0
        assert smtp.commands[2:-2] == [f"RCPT TO:<{one}>" for one in many]
        (home / "smtpd.sock").unlink()


def test_verbose_shows_the_dialogue(home: Path, monkeypatch: pytest.MonkeyPatch,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    sendmail(home, monkeypatch, "-v", "x@y")
    out = capsys.readouterr().out
    assert "<<< 220 mail.example ESMTP pysmtpd\n>>> EHLO localhost\n" in out
    assert ">>> RCPT TO:<x@y>\n" in out and out.endswith(">>> QUIT\n<<< 221 bye\n")


def test_a_refused_message_is_saved_and_its_writer_told(home: Path, monkeypatch: pytest.MonkeyPatch,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    smtp = Smtp({"RCPT TO:<bad": "550 Invalid recipient: <bad@y>"})
    status, _ = sendmail(home, monkeypatch, "good@y", "bad@y", smtp=smtp)
    assert status == 70
    assert smtp.data == b"" and "DATA" not in smtp.commands
    err = capsys.readouterr().err
    assert "sendmail: command failed: 550 Invalid recipient: <bad@y>" in err
    assert f"it was saved to {home}/dead.letter" in err
    saved = (home / "dead.letter").read_bytes()
    assert saved.startswith(b"From ") and LETTER.partition(b"\n")[0] in saved and b"\n\nbody\n" in saved
    assert (home / "dead.letter").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("refuse, status", [
    ({".": "451 4.3.0 try later"}, 70),
    ({"DATA": "503 no"}, 70),
    ({"MAIL": "530 no"}, 70),
    ({"220": "421 server too busy"}, 69),
])
def test_no_250_no_success(refuse: dict[str, str], status: int, home: Path, monkeypatch: pytest.MonkeyPatch,
                           capsys: pytest.CaptureFixture[str]) -> None:
    assert sendmail(home, monkeypatch, "x@y", smtp=Smtp(refuse))[0] == status
    assert next(iter(refuse.values())) in capsys.readouterr().err
    assert (home / "dead.letter").exists()


def test_without_a_daemon_it_is_a_temporary_failure(home: Path, monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(LETTER)))
    assert enqueue.main("sendmail", ["x@y"]) == 75
    err = capsys.readouterr().err
    assert "smtpd doesn't seem to be running" in err and "was not sent; it was saved to" in err
    monkeypatch.setenv("HOME", str(home / "missing"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(LETTER)))
    assert enqueue.main("sendmail", ["x@y"]) == 75
    assert "not saved either" in capsys.readouterr().err


def test_submission_is_paused(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(LETTER)))
    with daemon(home / "smtpd.sock", lambda _: CtlDone(1, False, "server disallowed submission request")):
        assert enqueue.main("sendmail", ["x@y"]) == 75
    assert "sendmail: server disallowed submission request" in capsys.readouterr().err


def test_a_set_id_caller_saves_nothing_where_the_environment_says(
        home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(LETTER)))
    monkeypatch.setattr("smtpctl.enqueue.control_path", lambda *_, **__: str(home / "nobody-listens"))
    other = os.geteuid() + 1
    monkeypatch.setattr("os.geteuid", lambda: other)
    assert enqueue.main("sendmail", ["x@y"]) == 75
    assert "not saved" in capsys.readouterr().err
    assert not (home / "dead.letter").exists()


def test_a_dead_letter_is_not_written_through_a_link(home: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    (home / "dead.letter").symlink_to(home / "target")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(LETTER)))
    assert enqueue.main("sendmail", ["x@y"]) == 75
    assert not (home / "target").exists()


@pytest.mark.parametrize("arguments, status, text", [
    ([], 70, "sendmail: no recipients"),
    (["-t"], 70, "sendmail: no recipients"),
    (["-f", "<a@b", "x"], 1, "leading < but no trailing >"),
    (["a b"], 1, "syntax error in address"),
    (["-f"], 1, "needs an argument"),
    (["-bd"], 1, "not supported"),
    (["-bi"], 1, "newaliases: /etc/"),
    (["-q15m"], 70, "schedule all"),
    (["-N", "a b", "x"], 1, "bad character"),
    (["\"a\nb\"@y"], 1, "syntax error in address"),
    (["-f", "x@y>\r\nRSET", "z"], 1, "syntax error in address"),
])
def test_what_cannot_be_done(arguments: list[str], status: int, text: str, home: Path,
                             monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert sendmail(home, monkeypatch, *arguments)[0] == status
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("arguments, recipients", [
    ("-FCronDaemon -i -odi -oem -oi -t root", ["root"]),
    ("-B 8BITMIME -A x -e m -L tag -o x -p x -m -x -E -Eattached -n -G a b", ["a", "b"]),
    ("a -f s b -- -c", ["a", "b", "-c"]),
    ("-bm - a", ["-", "a"]),
    ("-tivf s -h 3 a", ["a"]),
])
def test_options_that_change_nothing(arguments: str, recipients: list[str]) -> None:
    options = read_options(arguments.split())
    assert options.recipients == recipients and options.ignored == []


def test_options_nobody_knows_are_named() -> None:
    options = read_options(["-Z", "--frob", "-tY", "a"])
    assert options.ignored == ["-Z", "--frob", "-Y"] and options.from_header and options.recipients == ["a"]
    with pytest.raises(Usage):
        read_options(["-F"])


@pytest.mark.parametrize("name, header", [
    ("Alice", "Alice <a@b>"),
    ("", "<a@b>"),
    ('Alice "X" Liddell, Esq.', '"Alice \\"X\\" Liddell, Esq." <a@b>'),
    ("Jörg", "=?utf-8?B?SsO2cmc=?= <a@b>"),
    ("evil\r\nBcc: x", '"evilBcc: x" <a@b>'),
])
def test_a_generated_from(name: str, header: str) -> None:
    assert enqueue._mailbox(name, "a@b") == header


@pytest.mark.parametrize("regular", [True, False])
def test_standard_input_may_speak_smtp(regular: bool, tmp_path: Path) -> None:
    smtp = Smtp(extensions=("HELP",))
    mine, theirs = socket.socketpair()

    def serve() -> None:
        with theirs:
            smtp.serve(theirs)

    thread = threading.Thread(target=serve)
    thread.start()
    dialogue = b"EHLO me\nMAIL FROM:<a@b>\r\n"
    (tmp_path / "in").write_bytes(dialogue)
    if regular:
        source = os.open(tmp_path / "in", os.O_RDONLY)
    else:
        source, end = os.pipe()
        os.write(end, dialogue)
        os.close(end)
    sink = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    assert submit.splice(mine, source, sink) == 0
    thread.join(10)
    os.close(source)
    os.close(sink)
    assert smtp.commands == ["EHLO me", "MAIL FROM:<a@b>", "QUIT"]
    assert (tmp_path / "out").read_bytes().endswith(b"250 2.0.0 Ok\r\n221 bye\r\n")


def test_the_daemon_may_hang_up_first(tmp_path: Path) -> None:
    mine, theirs = socket.socketpair()
    source, end = os.pipe()
    sink = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    os.write(end, b"QUIT\n")
    os.close(end)
    theirs.send(b"421 bye\r\n")
    mine.send(b"never read")
    theirs.close()
    assert submit.splice(mine, source, sink) == 0
    assert (tmp_path / "out").read_bytes() == b"421 bye\r\n"
    os.close(source)
    os.close(sink)
