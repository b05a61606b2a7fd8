"""maildir: complete or absent, never in between."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pysmtpd.deliver.maildir import Maildir, extension_folder, file_name
from pysmtpd.deliver.verdict import DELIVERED, Failed
from pysmtpd.messages import Outcome


def put(path: Path, *pieces: bytes, extension: str = "", junk: bool = False, name: str = "1.x.host",
        binary: bool = False) -> None:
    one = Maildir(str(path), name, extension=extension, junk=junk, binary=binary)
    for piece in pieces:
        one.write(piece)
    assert one.finish() is DELIVERED


def content(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*") if found.is_file())


def test_directories_are_made_private(tmp_path: Path) -> None:
    put(tmp_path / "a/b/Maildir", b"x\r\n")
    for part in ("a", "a/b", "a/b/Maildir", "a/b/Maildir/tmp", "a/b/Maildir/new", "a/b/Maildir/cur"):
        assert (tmp_path / part).stat().st_mode & 0o777 == 0o700
    assert content(tmp_path) == ["a/b/Maildir/new/1.x.host"]


def test_what_is_there_keeps_its_modes(tmp_path: Path) -> None:
    for part in ("tmp", "new", "cur"):
        (tmp_path / "M" / part).mkdir(parents=True)
        (tmp_path / "M" / part).chmod(0o750)
    put(tmp_path / "M", b"x\r\n")
    assert (tmp_path / "M/new").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("pieces, wanted", [
    ([b"a\r\nb\r\n"], b"a\nb\n"), ([b"a"], b"a\n"), ([b"a\r"], b"a\r\n"), ([b"a\r", b"\n"], b"a\n"), ([], b""),
    ([b"a\0b\r\n"], b"a\0b\n"),
])
def test_content(tmp_path: Path, pieces: list[bytes], wanted: bytes) -> None:
    put(tmp_path, *pieces)
    assert (tmp_path / "new/1.x.host").read_bytes() == wanted


def test_names_are_never_used_twice(tmp_path: Path) -> None:
    Maildir(str(tmp_path), "same")
    with pytest.raises(Failed, match="File exists"):
        Maildir(str(tmp_path), "same")


def test_names() -> None:
    assert file_name(1, 0xAB, "a/b:c") == "1.00000000000000ab.a\\057b\\072c"


def test_a_relative_path(tmp_path: Path) -> None:
    with pytest.raises(Failed) as failed:
        Maildir("Maildir", "x")
    assert failed.value.verdict.outcome is Outcome.TEMPFAIL


def test_a_sub_address_chooses_a_folder_that_exists(tmp_path: Path) -> None:
    put(tmp_path, b"1\r\n", extension="lists", name="1")
    (tmp_path / ".lists").mkdir()
    put(tmp_path, b"2\r\n", extension="lists", name="2")
    assert content(tmp_path) == [".lists/new/2", "new/1"]


@pytest.mark.parametrize("extension, folder", [
    ("a", ".a"), ("a.b", ".a.b"), ("../../x", "...:..:x"), ("a/b", ".a:b"), (".", ""), ("..", ""), ("", ""),
    ("*", ".:"),
])
def test_folders_stay_inside(extension: str, folder: str) -> None:
    assert extension_folder(extension) == folder


SPAM = b"Subject: x\r\nX-Spam: Yes\r\n\r\nbody\r\n"


@pytest.mark.parametrize("body, junk", [
    (SPAM, True), (b"X-SPAM-FLAG: YES\r\n\r\n", True), (b"X-Spam: yes", True),
    (b"X-Spam: no\r\n\r\n", False), (b"X-Spam: yes, but\r\n\r\n", False), (b"a: b\r\n\r\nX-Spam: yes\r\n", False),
    (b"X-Spam:yes\r\n\r\n", False), (b"Y-X-Spam: yes\r\n\r\n", False),
])
def test_junk(tmp_path: Path, body: bytes, junk: bool) -> None:
    put(tmp_path, *[body[at : at + 3] for at in range(0, len(body), 3)], junk=True)
    assert content(tmp_path) == [".Junk/new/1.x.host" if junk else "new/1.x.host"]


def test_spam_without_the_option(tmp_path: Path) -> None:
    put(tmp_path, SPAM)
    assert content(tmp_path) == ["new/1.x.host"]


@pytest.mark.parametrize("code, esc", [(errno.ENOSPC, "4.3.1"), (errno.EDQUOT, "4.2.2"), (errno.EIO, "4.2.0")])
@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_disk_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, esc: str
) -> None:
    """Whichever operation it is: for now, and nothing is left."""
    one = Maildir(str(tmp_path), "1")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    if call != "write":
        one.write(b"x\r\n")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(Failed) as failed:
        one.write(b"x\r\n") if call == "write" else one.finish()
    assert (failed.value.verdict.outcome, failed.value.verdict.esc) == (Outcome.TEMPFAIL, esc)
    assert content(tmp_path) == []


def test_everything_is_on_the_disk_before_it_is_delivered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file before it gets its name, its directory after; and each new directory's parent."""
    done: list[str] = []

    def note(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            what = os.readlink(f"/proc/self/fd/{args[0]}") if name == "fsync" else str(args[1])
            done.append(f"{name} {os.path.relpath(what, tmp_path)}")
            return real(*args)

        return call

    for name in ("fsync", "rename"):
        monkeypatch.setattr(os, name, note(name, getattr(os, name)))
    put(tmp_path / "M", b"x\r\n")
    assert done[-3:] == ["fsync M/tmp/1.x.host", "rename M/new/1.x.host", "fsync M/new"]
    assert done[:2] == ["fsync .", "fsync M"]


def test_abort(tmp_path: Path) -> None:
    one = Maildir(str(tmp_path), "1")
    one.write(b"x")
    one.abort()
    one.abort()
    assert content(tmp_path) == []


@pytest.mark.parametrize("junk", [False, True])
def test_binary_mail_is_kept_as_it_is(tmp_path: Path, junk: bool) -> None:
    body = b"X-Spam: Yes\r\n\r\n\0a\nb\rc\r\n\n\nend"
    put(tmp_path / "M", body[:30], body[30:], binary=True, junk=junk)
    found = tmp_path / "M" / (".Junk/new" if junk else "new") / "1.x.host"
    assert found.read_bytes() == body
