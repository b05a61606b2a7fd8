"""Each tests/conf/invalid/*.conf is refused, with all that the .expect beside it says."""

from pathlib import Path

import pytest

from pysmtpd.conf.load import Loaded, load
from tests.conf.machine import Machine

FILES = {
    "/etc/bad": "key value\nkey without\nlonely\n",
    "/etc/bad.conf": "listen on lo\nlisten in lo\ninclude \"/etc/worse.conf\"\n",
    "/etc/worse.conf": "action x mbox usr\n",
    "/etc/loop.conf": "include \"/etc//loop.conf\"\n",
    "/etc/dos.conf": "listen on lo\r\n",
}
HERE = Path(__file__).parent / "invalid"


def loaded(path: Path) -> Loaded:
    machine = Machine(path.read_bytes())
    for name, text in FILES.items():
        machine.put(name, text)
    machine.put("/etc/open.pem", "x", mode=0o644)
    machine.put("/etc/theirs.pem", "x", uid=1000)
    return load("smtpd.conf", machine)


@pytest.mark.parametrize("path", sorted(HERE.glob("*.conf")), ids=lambda path: path.stem)
def test_invalid(path: Path) -> None:
    found = loaded(path)
    assert found.config is None
    assert "".join(f"{error}\n" for error in found.errors) == path.with_suffix(".expect").read_text()
