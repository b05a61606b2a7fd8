"""tables.sqlite: with the settings of OpenSMTPD's table-sqlite."""

import sqlite3
from pathlib import Path

import pytest

from pysmtpd.tables.program import Failed
from pysmtpd.tables.sqlite import Sqlite

CONFIG = """\
# as in table-sqlite(5)
dbpath {path}
query_alias SELECT destination FROM virtuals WHERE email=?;
query_credentials SELECT email, password FROM credentials WHERE email=?;
query_domain SELECT domain FROM domains WHERE domain=?;
query_userinfo SELECT uid, gid, home FROM users WHERE name = ? OR name || '@x' = ?
query_mailaddrmap: SELECT destination FROM virtuals WHERE email=?
fetch_source SELECT domain FROM domains
fetch_source_expire 60
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "smtp 100%.sqlite"
    with sqlite3.connect(path) as db:
        db.executescript("""
            CREATE TABLE virtuals (email TEXT, destination TEXT);
            CREATE TABLE credentials (email TEXT, password TEXT);
            CREATE TABLE domains (domain TEXT);
            CREATE TABLE users (name TEXT, uid INTEGER, gid INTEGER, home TEXT);
            INSERT INTO virtuals VALUES ('abuse@example.com', 'bob@example.com'), ('all', 'a'), ('all', 'b'),
                ('all', NULL);
            INSERT INTO credentials VALUES ('bob', '$2b$x');
            INSERT INTO domains VALUES ('example.com'), ('example.net');
            INSERT INTO users VALUES ('bob', 1000, 100, '/home/bob');
        """)
    db.close()
    return path


@pytest.fixture
def config(tmp_path: Path, database: Path) -> Path:
    path = tmp_path / "sqlite.conf"
    path.write_text(CONFIG.format(path=database))
    return path


def test_services(config: Path) -> None:
    table = Sqlite(str(config))
    assert table.services() == ["alias", "credentials", "domain", "mailaddrmap", "source", "userinfo"]
    assert table.lookup("alias", "abuse@example.com") == "bob@example.com"
    assert table.lookup("alias", "all") == "a, b"
    assert table.lookup("alias", "nobody") is None
    assert table.lookup("credentials", "bob") == "bob:$2b$x"
    assert table.lookup("domain", "example.com") == "example.com"
    assert table.lookup("userinfo", "bob") == "1000:100:/home/bob"
    assert table.lookup("userinfo", "bob@x") == "1000:100:/home/bob"
    assert [table.fetch("source") for _ in range(3)] == ["example.com", "example.net", "example.com"]
    with pytest.raises(Failed, match="no query_netaddr"):
        table.lookup("netaddr", "10.0.0.1")
    table._close()


def test_a_database_that_is_gone_fails_for_now_and_is_opened_again(config: Path, database: Path) -> None:
    table = Sqlite(str(config))
    away = database.with_name("away")
    database.rename(away)
    with pytest.raises(Failed, match="unable to open"):
        table.lookup("alias", "all")
    away.rename(database)
    assert table.lookup("alias", "all") == "a, b"
    table._close()


def test_what_a_key_says_is_never_sql(config: Path) -> None:
    table = Sqlite(str(config))
    assert table.lookup("alias", "x' OR '1'='1") is None
    table._close()


def test_the_database_is_only_read(config: Path, database: Path) -> None:
    config.write_text(f"dbpath {database}\nquery_alias DELETE FROM virtuals WHERE email = ? RETURNING destination\n")
    table = Sqlite(str(config))
    with pytest.raises(Failed, match="readonly"):
        table.lookup("alias", "all")


def test_a_query_with_the_wrong_columns(config: Path, database: Path) -> None:
    config.write_text(f"dbpath {database}\nquery_userinfo SELECT uid FROM users WHERE name = ?\n")
    table = Sqlite(str(config))
    with pytest.raises(Failed, match="gives 1 columns, and 3 are needed"):
        table.lookup("userinfo", "bob")
    table._close()


def test_an_update_reads_the_configuration_again_and_a_bad_one_changes_nothing(config: Path, database: Path) -> None:
    table = Sqlite(str(config))
    good = config.read_text()
    config.write_text("nonsense x\n")
    with pytest.raises(Failed, match=":1: nothing is named nonsense"):
        table.update()
    assert table.lookup("alias", "all") == "a, b"
    config.write_text(good.replace("SELECT destination FROM virtuals WHERE email=?;", "SELECT 'new' WHERE ? <> ''"))
    table.update()
    assert table.lookup("alias", "all") == "new"
    table._close()


@pytest.mark.parametrize("text, error", [
    ("query_alias SELECT 1\n", "no dbpath"), ("dbpath /x\n", "no query"), ("dbpath\n", ":1: no value for dbpath"),
])
def test_a_configuration_that_makes_no_sense(text: str, error: str, tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_text(text)
    with pytest.raises(Failed, match=error):
        Sqlite(str(path))
