"""OpenSMTPD 7.8's own verdicts, taken from its ``smtpd -n``, against ours.

A file of tests/conf/verdicts begins with the verdict; lines.txt there holds a small file in each line.  Where we differ
the file says so, and docs/differences.md says why.
"""

from pathlib import Path

import pytest

from pysmtpd.conf.load import load
from tests.conf.machine import PATH, Machine

HERE = Path(__file__).parent / "verdicts"
FILES = {
    "/etc/aliases": "root: joe\n",
    "/etc/mail/aliases": "root: joe\n",
    "/etc/mail/secrets": "smarthost joe:secret\n",
    "/etc/mail/domains": "example.org\nexample.com\n",
    "/etc/mail/virtuals": "@example.org vmail\n",
    "/etc/mail/senders": "joe joe@example.org\n",
    "/etc/mail/list": "example.org\n",
    "/etc/mail/hash": "root: joe\n",
    "/etc/mail/empty": "",
    "/etc/mail/more.conf": "",
}
RULE = "\nmatch for any reject\n"
_BOTH = {"accepted": True, "refused": False}


def accepts(text: str) -> bool:
    machine = Machine(text.encode("utf-8", "surrogateescape"))
    for name, content in FILES.items():
        machine.put(name, content)
    return not load(PATH, machine).errors


@pytest.mark.parametrize("path", sorted(HERE.glob("*.conf")), ids=lambda path: path.stem)
def test_a_file_as_somebody_would_write_it(path: Path) -> None:
    text = path.read_text()
    verdict = text.partition("\n")[0].removeprefix("# OpenSMTPD 7.8: ")
    there, _, here = verdict.partition(", and here ")
    assert accepts(text) == _BOTH[here or there]


def test_small_files() -> None:
    wrong = []
    for line in (HERE / "lines.txt").read_text().split("\n"):
        signs, _, text = line.partition(" ")
        if signs and signs[0] in "+-":
            text = text.replace("\\n", "\n")
            if accepts(text + ("\n" if "match " in text else RULE)) != (signs[-1] == "+"):
                wrong.append(line)
    assert wrong == []
