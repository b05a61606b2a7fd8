"""Titles of processes that have to start fast."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pysmtpd.privsep.title import set_title
set_title("pysmtpd: worker joe")
print(open("/proc/self/cmdline").read().rstrip("\\0"), "logging" in sys.modules)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_title_is_set_without_loading_much() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", PROGRAM, "x" * 40], capture_output=True, text=True, check=True,
                          timeout=30)
    assert done.stdout == "pysmtpd: worker joe False\n"
