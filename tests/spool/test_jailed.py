"""The whole of the queue's work in an empty jail: nothing is imported there, and nothing stays root's."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import os, sys
from pathlib import Path
from pysmtpd.messages import *
from pysmtpd.conf.config import Secret
from pysmtpd.spool import bounces, coding, writer
from tests.spool.house import NOW, House, TestQueue, envelope, expanded
TestQueue.preload(None)
coded = {"queue_compression": True, "queue_key": Secret("k" * 32)} if sys.argv[3] else {}
coding.preload(encrypts=bool(coded))
bounces.GATHER, writer.LAZY = 0.01, 0.002
os.chroot(sys.argv[1])
os.chdir("/")
os.setgroups([])
os.setresgid(int(sys.argv[2]), int(sys.argv[2]), int(sys.argv[2]))
os.setresuid(int(sys.argv[2]), int(sys.argv[2]), int(sys.argv[2]))
before = set(sys.modules)
house = House(Path("/"), **coded)
for body in (b"small", b"\\xe9" * 300000):
    house.scheduler.sent.clear()
    ok, bad, late = house.submit(body, [envelope(), envelope(), envelope()])
    for evpid in (ok, bad, late):
        house.dispatch(evpid)
    house.say(house.mta, BodyOpen(1, ok >> 32))
    house.report(ok, Outcome.OK)
    house.report(late, Outcome.TEMPFAIL, "4.0.0", "busy")
    house.say(house.scheduler, SchedRetry(late, 1, NOW + 400, 14400))
    house.report(bad, Outcome.PERMFAIL, "5.0.0", "no")
    house.run(0.1)
    house.say(house.scheduler, SchedDispatch([bad]))
    ask = house.expect(house.lka, ExpandRcpt)
    house.say(house.lka, expanded(ask, envelope()))
    house.run(0.1)
    house.say(house.control, CtlShowQueue(1, 0, 0))
    house.say(house.control, CtlShowEnvelope(1, late))
    house.say(house.control, CtlShowMessage(1, late >> 32, 0))
    house.say(house.control, CtlEnvelopes(1, EnvelopeCommand.REMOVE, late, 0, 0))
    house.run(0.1)
house.close()
print(sorted(set(sys.modules) - before))
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")
@pytest.mark.parametrize("coded", ["", "coded"])
def test_in_the_jail(tmp_path: Path, coded: str) -> None:
    uid = pwd.getpwnam("nobody").pw_uid
    jail = tmp_path / "spool"
    (jail / "queue").mkdir(parents=True)
    os.chown(jail / "queue", uid, uid)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(jail), str(uid), coded], cwd=root, capture_output=True, text=True,
        timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[]\n"
    assert {path.stat().st_uid for path in (jail / "queue").rglob("*")} == {uid}
