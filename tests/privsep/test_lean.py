"""No process carries the standard library's ssl."""

import subprocess
import sys

import pytest

from pysmtpd.base.procs import CHILDREN


@pytest.mark.parametrize("module", [f"pysmtpd.{proc.value}" for proc in CHILDREN] + ["pysmtpd.parent"])
def test_ssl_is_not_there(module: str) -> None:
    code = f"""
import pysmtpd.privsep.reexec, {module}, sys
if {module!r} == "pysmtpd.lka":
    from pysmtpd.lookup import resolver
    resolver.preload()
assert sys.modules["ssl"] is None and "_ssl" not in sys.modules
print("done")
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "done\n", done.stderr
