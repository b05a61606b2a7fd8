"""``smtpctl config show``: no daemon, no root; what it prints is a configuration again."""

import json
from pathlib import Path

import pytest

from smtpctl import __main__ as program

CONF = """
size = "10M"
smtp max-message-size $size
srs key "quite secret"
listen on 127.0.0.1 port $port
action "out" relay srs
match for any action "out"
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "smtpd.conf"
    path.write_text(CONF)
    return path


def run(*words: str) -> int:
    return program.run("smtpctl", ["config", "show", *words])


def test_what_is_printed_reads_as_the_same(conf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("-D", "port=2525", "-f", str(conf)) == 0
    shown = capfd.readouterr().out
    for line in ["smtp max-message-size 10M", 'srs key "quite secret"', "queue ttl 4d  # default",
                 'match from local for any action "out"']:
        assert line in shown.split("\n")
    assert "listen on 127.0.0.1 port 2525 hostname" in shown
    again = conf.with_name("again")
    again.write_text(shown)
    assert program.run("smtpctl", ["con", "sh", f"-f{again}"]) == 0
    assert capfd.readouterr().out == shown.replace(str(conf), str(again))


def test_json_and_masks(conf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("-jm", "-D", "port=2525", "-f", str(conf)) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["max_message_size"], found["listeners"][0]["port"], found["srs_key"]) == (10 << 20, 2525, "********")
    assert run("-m", "-D", "port=2525", "-f", str(conf)) == 0
    assert "quite" not in capfd.readouterr().out


def test_errors_go_to_standard_error(conf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("-f", str(conf)) == 1
    shown = capfd.readouterr()
    assert shown.out == "" and "smtpd.conf:5:26: macro 'port' not defined" in shown.err


@pytest.mark.parametrize("words, told", [
    (["-x"], "option -x not recognized"), (["-D", "x"], "-D x: not macro=value"), (["y"], "unexpected argument: y"),
    (["-f", "/none"], "/none: no such file"),
])
def test_wrong_words(words: list[str], told: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 1
    assert told in capfd.readouterr().err
