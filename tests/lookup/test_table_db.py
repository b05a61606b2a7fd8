"""lookup.table_db: tables in map files."""

import os
from pathlib import Path

import pytest

from pysmtpd.lookup.table import Service, TableError
from pysmtpd.lookup.table_db import AT_ONCE_MAX, DbTable
from pysmtpd.lookup.table_reload import Reloaded
from smtpctl.makemap import replace
from tests.maps.test_bdb import DATA, FILES


def make(path: Path, **entries: str) -> None:
    replace(str(path), [(key.encode(), value.encode()) for key, value in entries.items()], None)


def table(path: Path, told: list[str]) -> DbTable:
    return DbTable("t", str(path), tell=told.append)


def test_exact_and_compared_services(tmp_path: Path) -> None:
    path, told = tmp_path / "m.db", list[str]()
    replace(str(path), [(b"root", b"bob"), (b"*.example.org", b"<set>"), (b"10.0.0.0/8", b"<set>"),
                        (b"@example.net", b"carol")], None)
    db = table(path, told)
    assert db.lookup(Service.ALIAS, "root") == "bob" and db.lookup(Service.ALIAS, "nobody") is None
    assert db.match(Service.DOMAIN, "a.b.example.org") and not db.match(Service.DOMAIN, "example.org")
    assert db.match(Service.NETADDR, "10.1.2.3") and not db.match(Service.NETADDR, "192.0.2.1")
    assert db.match(Service.MAILADDR, "x@example.net")
    assert [db.fetch(Service.SOURCE) for _ in range(5)] == ["*.example.org", "10.0.0.0/8", "@example.net", "root",
                                                           "*.example.org"]
    assert told == []


@pytest.mark.parametrize("name", FILES)
def test_opensmtpds_files(name: str) -> None:
    db = table(DATA / name, [])
    assert db.lookup(Service.ALIAS, "user7") == "value7@example.org"
    assert db.lookup(Service.ALIAS, "big") == "0123456789" * 60
    assert db.lookup(Service.ALIAS, "user40") is None


def test_a_file_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    make(path, root="bob")
    db = table(path, [])
    assert db.lookup(Service.ALIAS, "root") == "bob"
    make(path, root="alice")
    assert db.lookup(Service.ALIAS, "root") == "alice"
    fds = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        make(path, root=str(number))
        assert db.lookup(Service.ALIAS, "root") == str(number)
    assert len(os.listdir("/proc/self/fd")) == fds


def test_a_file_that_went_wrong_keeps_the_last_good_content_and_is_told_of_once(tmp_path: Path) -> None:
    path, told = tmp_path / "m.db", list[str]()
    make(path, root="bob")
    db = table(path, told)
    path.unlink()
    assert [db.lookup(Service.ALIAS, "root") for _ in range(3)] == ["bob"] * 3
    assert told == [f"table t: {path}: No such file or directory: the content of before is kept"]
    path.write_text("root alice\n")
    assert [db.lookup(Service.ALIAS, "root") for _ in range(3)] == ["bob"] * 3
    assert len(told) == 2 and f"makemap -o {path} {tmp_path}/m" in told[1]
    make(path, root="alice")
    assert db.lookup(Service.ALIAS, "root") == "alice" and len(told) == 2


def test_a_file_cut_short_in_place_is_a_temporary_failure(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    make(path, **{f"user{number}": "x" for number in range(50)})
    db = table(path, [])
    times = path.stat()
    with open(path, "r+b") as file:
        file.truncate(2100)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    outcomes = []
    for number in range(50):
        try:
            outcomes.append(db.lookup(Service.ALIAS, f"user{number}"))
        except TableError:
            outcomes.append("failed")
    assert set(outcomes) == {"failed"}


@pytest.mark.parametrize("data, words", [
    (b"root bob\n", "makemap -o"), (b"SQLite format 3\0" + b"\0" * 200, "not a file that makemap made"),
])
def test_what_is_no_map_is_refused_with_the_command_that_makes_one(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    path.write_bytes(data)
    with pytest.raises(TableError, match=words):
        table(path, [])


def test_a_large_file_is_left_to_a_thread(tmp_path: Path) -> None:
    path, later = tmp_path / "m.db", list[Reloaded]()
    make(path, root="bob")
    db = DbTable("t", str(path), later=later.append)
    make(path, root="alice", other="x" * AT_ONCE_MAX)
    assert db.lookup(Service.ALIAS, "root") == "bob" and db.lookup(Service.ALIAS, "root") == "bob"
    assert later == [db]
    db.install(db.read())
    assert db.lookup(Service.ALIAS, "root") == "alice"


def test_all_of_a_large_file_is_read_by_a_thread_and_the_old_content_answers_meanwhile(tmp_path: Path) -> None:
    path, later = tmp_path / "m.db", list[Reloaded]()
    names = {f"d{number}.example.org": "x" * 40 for number in range(3000)}
    make(path, **names)
    db = DbTable("t", str(path), later=later.append)
    db.expect(Service.DOMAIN)          # when the daemon starts
    assert db.match(Service.DOMAIN, "d2999.example.org") and later == []
    make(path, **names, **{"new.example.org": "x"})
    assert [db.match(Service.DOMAIN, f"{name}.example.org") for name in ("new", "d1")] == [False, True]
    assert later == [db]
    opened = db.read()
    assert opened.held is not None and list(opened.held.finders) == [Service.DOMAIN]
    db.install(opened)
    assert db.match(Service.DOMAIN, "new.example.org") and later == [db]


def test_a_way_of_asking_that_nobody_expected_fails_until_a_thread_has_read_all(tmp_path: Path) -> None:
    path, later = tmp_path / "m.db", list[Reloaded]()
    make(path, **{"192.0.2.0/24": "x" * AT_ONCE_MAX})
    db = DbTable("t", str(path), later=later.append)
    for _ in range(3):
        with pytest.raises(TableError, match=r"m\.db: it is being read"):
            db.match(Service.NETADDR, "192.0.2.1")
    assert later == [db]
    db.install(db.read())
    assert db.match(Service.NETADDR, "192.0.2.1") and not db.match(Service.NETADDR, "192.0.3.1")


def test_an_entry_that_is_no_text_keeps_the_content_of_before(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    make(path, **{"example.org": "x"})
    told = list[str]()
    db = table(path, told)
    assert db.match(Service.DOMAIN, "example.org")
    fds = len(os.listdir("/proc/self/fd"))
    replace(str(path), [(b"\xff", b"x")], None)
    assert db.match(Service.DOMAIN, "example.org")
    assert told == [f"table t: {path}: an entry that is not UTF-8: the content of before is kept"]
    assert len(os.listdir("/proc/self/fd")) == fds
