"""How much memory the libraries of a process take by themselves: an interpreter that imports them, and nothing else."""

import subprocess
import sys

from pysmtpd.base.procs import Proc
from tests.support.daemon import memory

_LIST = """
import importlib, sys
from pysmtpd.privsep import reexec
from pysmtpd.privsep.log import Log
from pysmtpd.privsep.process import Birth
module = importlib.import_module(f"pysmtpd.{sys.argv[1]}")
if sys.argv[1] != "parent":
    birth = Birth(proc=sys.argv[1], uid=0, gid=0, spool="/", socket="/", stderr=True, verbose=0)
    getattr(module, sys.argv[1].capitalize())(birth, Log(stderr=True, verbose=False)).preload()
print("\\n".join(name for name in sys.modules if not name.startswith("pysmtpd") and name != "__main__"))
"""
_BARE = """
import contextlib, gc, importlib, sys
for name in sys.stdin.read().split():
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
"""
_WAIT = "gc.collect(); gc.freeze(); print('ready', flush=True); sys.stdin.close(); import time; time.sleep(60)"


def libraries(proc: Proc) -> list[str]:
    """What a process has imported that is not ours, in order."""
    done = subprocess.run([sys.executable, "-I", "-c", _LIST, proc.value], capture_output=True, text=True, timeout=60,
                          check=True, cwd="/")
    return done.stdout.split()


def resident(names: list[str]) -> int:
    """Octets of memory (VmRSS) of an interpreter that imports these."""
    process = subprocess.Popen([sys.executable, "-I", "-c", _BARE + _WAIT], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, cwd="/")
    with process:
        try:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("\n".join(names))
            process.stdin.close()
            assert process.stdout.readline() == "ready\n"
            return memory(process.pid, "VmRSS")
        finally:
            process.kill()
