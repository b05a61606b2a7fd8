"""The point of no return, tried in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr


def test_without_root_nothing_new_can_be_had() -> None:
    code = """
import os
from pysmtpd.privsep import jail
jail.restrict(threads=False)
status = open("/proc/self/status").read()
assert "NoNewPrivs:\\t1" in status
import resource
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
print("done")
"""
    assert run(code) == "done\n"


@ROOT
def test_root_is_given_up_for_good(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    code = f"""
import os
from pysmtpd.privsep import jail
jail.enter({str(tmp_path)!r}, 65534, 65534, threads=False)
assert os.getresuid() == (65534,) * 3 and os.getresgid() == (65534,) * 3 and os.getgroups() == [65534]
assert os.listdir("/") == []
try:
    os.fork()
except OSError:
    pass
else:
    raise SystemExit("it forked")
for regain in (os.setuid, os.setgid):
    try:
        regain(0)
    except PermissionError:
        continue
    raise SystemExit("root again")
print("done")
"""
    assert run(code) == "done\n"
