"""makemap and newaliases, by name."""

import fcntl
import io
import os
import sys
from pathlib import Path

import pytest

from pysmtpd.imsg import Message
from pysmtpd.messages import CtlDone, CtlUpdateTable
from smtpctl import __main__ as program
from smtpctl.makemap import map_entries
from tests.maps.test_bdb import DATA, ENTRIES
from tests.smtpctl.fake import daemon


def read(path: Path) -> dict[bytes, bytes]:
    return dict(map_entries(path.read_bytes()))


def makemap(*arguments: str | Path) -> int:
    return program.run("makemap", [str(argument) for argument in arguments])


def test_a_mapping(tmp_path: Path) -> None:
    source = tmp_path / "aliases"
    source.write_text("# c\nRoot: bob, carol\n\npostmaster root\n")
    source.chmod(0o640)
    assert makemap(source) == 0
    assert read(tmp_path / "aliases.db") == {b"root": b"bob, carol", b"postmaster": b"root"}
    assert (tmp_path / "aliases.db").stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(tmp_path)) == ["aliases", "aliases.db"]


def test_a_set(tmp_path: Path) -> None:
    source = tmp_path / "domains"
    source.write_text("Example.ORG\nkey with spaces\n")
    assert makemap("-t", "set", "-o", tmp_path / "out", source) == 0
    assert read(tmp_path / "out") == {b"example.org": b"<set>", b"key with spaces": b"<set>"}


@pytest.mark.parametrize("name", ["hash", "btree"])
def test_as_sendmails_from_standard_input(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in"
    source.write_text("a b\n")
    saved = os.dup(0)
    with open(source, "rb") as file:
        os.dup2(file.fileno(), 0)
    try:
        assert makemap(name, tmp_path / "map") == 0
    finally:
        os.dup2(saved, 0)
        os.close(saved)
    assert read(tmp_path / "map.db") == {b"a": b"b"}
    assert (tmp_path / "map.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["ours", "bdb185-hash.db"])
def test_a_map_is_shown(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = DATA / name
    if name == "ours":
        (tmp_path / "m").write_text("Gr\u00fc\u00dfe value\nk v w\n")
        assert makemap(tmp_path / "m") == 0
        path = tmp_path / "m.db"
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    assert makemap("-U", path) == 0
    wanted = "gr\u00fc\u00dfe\tvalue\nk\tv w\n" if name == "ours" else "".join(sorted(
        f"{key.decode().rstrip(chr(0))}\t{value.decode().rstrip(chr(0))}\n" for key, value in ENTRIES.items()))
    assert "".join(sorted(out.getvalue().splitlines(keepends=True))) == wanted


@pytest.mark.parametrize("text, arguments, error", [
    ("a b\nlonely\n", (), "2: invalid entry"),
    ("a b\nA c\n", (), "2: duplicate entry for a"),
    ("a b\nc 'open\n", ("-t", "aliases"), "2: invalid entry: \"'open\" has an open quote, or ends in a backslash"),
    ("a b, <x>\n", ("-t", "aliases"), '1: invalid entry: "<x>" is no user'),
    ("\u00e9" * 600 + " x\n", (), "1: key is longer than 1023 octets"),
])
def test_a_bad_line_is_named_and_nothing_is_replaced(text: str, arguments: tuple[str, ...], error: str, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "t", tmp_path / "t.db"
    source.write_text(text)
    out.write_text("before")
    assert makemap(*arguments, source) == 1
    assert capsys.readouterr().err.startswith(f"makemap: {source}:{error}")
    assert out.read_text() == "before" and sorted(os.listdir(tmp_path)) == ["t", "t.db"]


@pytest.mark.parametrize("line", [
    "bob", "\\bob", "bob, carol@example.org", '"|/bin/cmd a, b"', "|/bin/cmd", "/var/mail/x y", ":include:/etc/l",
    "error:550 5.1.1 gone", "bob+x, user_1.2",
])
def test_members_of_aliases(line: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_text(f"a: {line}\n")
    assert makemap("-t", "aliases", tmp_path / "t") == 0
    assert read(tmp_path / "t.db") == {b"a": line.encode()}


@pytest.mark.parametrize("arguments, error", [
    (("-d", "dbm", "x"), "makemap: unsupported DB type 'dbm'"),
    (("-t", "x", "y"), "makemap: unsupported type 'x'"),
    ((), "usage: makemap [-U] [-d dbtype] [-o dbfile] [-t type] file"),
    (("-z", "x"), "usage: makemap [-U] [-d dbtype] [-o dbfile] [-t type] file"),
    (("/nonexistent",), "makemap: /nonexistent: No such file or directory"),
    (("/dev/null",), "makemap: /dev/null is not a file"),
])
def test_what_cannot_be_made(arguments: tuple[str, ...], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert makemap(*arguments) == 1
    assert capsys.readouterr().err == error + "\n"


def test_a_map_is_on_stable_storage_before_it_takes_the_place_of_the_old_one(tmp_path: Path,
                                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    source, steps = tmp_path / "t", list[str]()
    source.write_text("a b\n")
    fsync, rename = os.fsync, os.rename

    def synced(fd: int) -> None:
        steps.append(f"fsync {os.path.basename(os.readlink(f'/proc/self/fd/{fd}')).partition('.db.')[0]}")
        fsync(fd)

    def renamed(old: str, new: str) -> None:
        assert read(Path(old)) == {b"a": b"b"}
        steps.append(f"rename to {os.path.basename(new)}")
        rename(old, new)

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr("os.rename", renamed)
    assert makemap(source) == 0
    assert steps == ["fsync t", "rename to t.db", f"fsync {tmp_path.name}"]


def test_a_map_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "t"
    source.write_text("a b\n")

    def full(_fd: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("os.fsync", full)
    assert makemap(source) == 1
    assert capsys.readouterr().err == f"makemap: {source}.db: No space left on device\n"
    assert os.listdir(tmp_path) == ["t"]


def test_nothing_but_a_file_is_replaced_or_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "aliases").write_text("a b\n")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert makemap("-o", pipe, tmp_path / "aliases") == 1
    assert makemap("-U", pipe) == 1
    assert capsys.readouterr().err == f"makemap: {pipe} is not a file\n" * 2
    assert pipe.is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["aliases", "pipe"]


def test_a_locked_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "t"
    source.write_text("a b\n")
    with open(source, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert makemap(source) == 1
    assert capsys.readouterr().err == f"makemap: {source} is locked\n"


def configuration(tmp_path: Path) -> Path:
    (tmp_path / "a").write_text("root: bob\nx: y\n")
    (tmp_path / "b").write_text("root: carol\n")
    conf = tmp_path / "smtpd.conf"
    conf.write_text(f"table aliases db:{tmp_path}/a.db\ntable more file:{tmp_path}/b\n"
                    'action "local" mbox alias <more>\nmatch for local action "local"\n')
    return conf


def test_newaliases_makes_maps_checks_texts_and_tells_the_daemon(tmp_path: Path,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    conf, asked = configuration(tmp_path), list[Message]()

    def answer(message: Message) -> Message:
        asked.append(message)
        return CtlDone(1, True, "")

    with daemon(tmp_path / "smtpd.sock", answer):
        assert program.run("newaliases", ["-f", str(conf), "--state-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/a: 2 aliases\n{tmp_path}/b: 1 aliases\n"
    assert read(tmp_path / "a.db") == {b"root": b"bob", b"x": b"y"}
    assert asked == [CtlUpdateTable(1, "aliases"), CtlUpdateTable(1, "more")]


def test_newaliases_without_a_daemon(tmp_path: Path) -> None:
    assert program.run("newaliases", ["-f", str(configuration(tmp_path)), "--state-dir", str(tmp_path)]) == 0


@pytest.mark.parametrize("name, text, error", [
    ("b", "lonely, entry:\n", "b:1: invalid entry"), ("smtpd.conf", "nonsense\n", "smtpd.conf:1:1: "),
    ("smtpd.conf", 'action "l" mbox\nmatch for local action "l"\n', "no table of aliases in a file"),
])
def test_newaliases_that_fails(name: str, text: str, error: str, tmp_path: Path,
                               capsys: pytest.CaptureFixture[str]) -> None:
    conf = configuration(tmp_path)
    (tmp_path / name).write_text(text)
    assert program.run("newaliases", ["-f", str(conf), "--state-dir", str(tmp_path)]) == 1
    assert error in capsys.readouterr().err


def test_a_table_that_cannot_be_updated_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with daemon(tmp_path / "smtpd.sock", lambda _: CtlDone(1, False, "no such table: x")):
        assert program.run("smtpctl", ["--state-dir", str(tmp_path), "update", "table", "x"]) == 1
    assert "no such table: x" in capsys.readouterr().err
