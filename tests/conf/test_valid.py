"""Each tests/conf/valid/*.conf is accepted, and means what the .expect beside it says."""

from pathlib import Path

import pytest

from pysmtpd.conf.config import decode, encode
from pysmtpd.conf.load import Loaded, load
from tests.conf.dump import dump
from tests.conf.machine import Machine

FILES: dict[str, str | bytes] = {
    "/etc/aliases": "root: joe\n",
    "/etc/mail/one.conf": 'chosen = "a"\naction a relay\ninclude "/etc/mail/two.conf"\n',
    "/etc/mail/two.conf": "action two mbox\nmatch for local action two",
    "/etc/mail/conf.d/b.conf": 'chosen = "last"\naction last relay',
    "/etc/mail/conf.d/a.conf": "listen on lo",
    "/etc/mail/conf.d/c.txt": "not read",
    "/etc/mail/list": "# comment\n\nexample.org\nexample.com\n",
    "/etc/mail/domains": "example.org",
    "/etc/mail/hash": "root joe\njoe: jane\n",
    "/etc/mail/marked": "# @list\na b\n",
    "/etc/mail/addresses": "2001:db8::1\n2001:db8::/32\n[::1]\n",
    "/etc/mail/empty": "",
    "/var/log": "",
    "/etc/mail/aliases.db": (Path(__file__).parent.parent / "maps/data/libdb53-hash.db").read_bytes(),
    "/usr/lib/opensmtpd/table-ldap": "",
    "/usr/bin/find-user": "",
    "/usr/bin/ask": "",
}
HERE = Path(__file__).parent / "valid"


def loaded(path: Path) -> Loaded:
    machine = Machine(path.read_bytes())
    for name, text in FILES.items():
        machine.put(name, text, mode=0o755 if "/bin/" in name else 0o600)
    return load("smtpd.conf", machine)


@pytest.mark.parametrize("path", sorted(HERE.glob("*.conf")), ids=lambda path: path.stem)
def test_valid(path: Path) -> None:
    found = loaded(path)
    assert [str(error) for error in found.errors] == []
    assert found.config is not None
    assert decode(encode(found.config)) == found.config
    later = "".join(f"{at}: not yet in effect: {what}\n" for at, what in found.not_in_effect)
    assert dump(found.config) + later == path.with_suffix(".expect").read_text()
