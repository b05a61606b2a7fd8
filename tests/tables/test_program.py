"""tables.program: what every table program of ours is made of."""

from pathlib import Path

import pytest

from pysmtpd.lookup.program import Conversation
from pysmtpd.tables.program import Failed, answer, read_config, serve


class Words:
    """A back end of a dictionary."""

    def __init__(self) -> None:
        self.updated = 0

    def services(self) -> list[str]:
        return ["alias", "source"]

    def update(self) -> None:
        self.updated += 1
        if self.updated > 1:
            raise Failed("no\nmore")

    def lookup(self, service: str, key: str) -> str | None:
        if key == "broken":
            raise Failed("the data base\nis gone")
        return {"bob": "robert", "a|b": "x|y", "lines": "a\nb", "empty": ""}.get(key)

    def fetch(self, service: str) -> str | None:
        return "10.0.0.1"


@pytest.mark.parametrize("request_, reply", [
    ("lookup|alias|00000001|bob", "lookup-result|00000001|found|robert"),
    ("lookup|alias|00000001|a|b", "lookup-result|00000001|found|x|y"),
    ("lookup|alias|00000001|eve", "lookup-result|00000001|not-found"),
    ("lookup|alias|00000001|empty", "lookup-result|00000001|not-found"),
    ("lookup|alias|00000001|broken", "lookup-result|00000001|error|the data base is gone"),
    ("lookup|alias|00000001|lines", "lookup-result|00000001|error|a value of more than one line"),
    ("check|alias|00000001|bob", "check-result|00000001|found"),
    ("check|alias|00000001|eve", "check-result|00000001|not-found"),
    ("fetch|source|00000001", "fetch-result|00000001|found|10.0.0.1"),
    ("update|00000001", "update-result|00000001|ok"),
    ("dance|alias|00000001|bob", ""),
])
def test_requests(request_: str, reply: str) -> None:
    assert answer(Words(), f"table|0.1|1.000000|t|{request_}") == reply


@pytest.mark.parametrize("line", ["", "table|0.2|1|t|update|1", "config|ready", "x|y"])
def test_what_is_no_request_has_no_reply(line: str) -> None:
    assert answer(Words(), line) == ""


def test_both_ends_of_the_protocol_understand_each_other() -> None:
    talk, written = Conversation("t", "v"), list[str]()
    lines = talk.hello().decode().splitlines(keepends=True)
    requests = [("lookup", "alias", "bob"), ("check", "alias", "eve"), ("fetch", "source", ""), ("update", "", "")]

    def read() -> str:
        if lines:
            return lines.pop(0)
        talk.receive("".join(written).encode())
        written.clear()
        return talk.request(1.0, *requests.pop(0))[1].decode() if requests else ""

    serve(Words(), read, written.append)
    assert talk.ready and talk.open == 0


def test_a_configuration_file(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_text("# c\n\ndbpath /x y\nquery_alias: SELECT a:b\n  key:value\n")
    assert read_config(str(path)) == [
        (3, "dbpath", "/x y"), (4, "query_alias", "SELECT a:b"), (5, "key", "value")]
    path.write_text("dbpath\n")
    with pytest.raises(Failed, match=":1: no value for dbpath"):
        read_config(str(path))
    with pytest.raises(Failed, match="No such file"):
        read_config("/nonexistent")
