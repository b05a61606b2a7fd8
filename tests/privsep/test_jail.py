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


@ROOT
def test_a_user_may_have_the_group_of_root() -> None:
    code = """
import os
from pysmtpd.privsep import jail
jail.drop(65534, 0)
assert os.getresuid() == (65534,) * 3 and os.getresgid() == (0,) * 3 and os.getgroups() == [0]
try:
    os.setuid(0)
except PermissionError:
    print("done")
"""
    assert run(code) == "done\n"


def test_the_terminal_is_let_go_of() -> None:
    code = """
import os, pty
from pysmtpd.privsep import jail
ours, terminal = pty.openpty()
for stderr in (True, False):
    for fd in (0, 1, 2):
        os.dup2(terminal, fd)
    jail.let_go_of_terminal(stderr=stderr)
    found = [os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)]
    assert found == ["/dev/null", "/dev/null", os.ttyname(terminal) if stderr else "/dev/null"], found
    if stderr:
        os.write(2, b"x")
        try:
            os.read(2, 1)
        except OSError:
            pass
        else:
            raise SystemExit("it can read what is typed")
os._exit(7)
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], timeout=30, check=False)
    assert done.returncode == 7
