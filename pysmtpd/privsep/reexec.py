"""``python -I -m pysmtpd.privsep.reexec BIRTH``: where every process but the parent begins.

The parent executes the interpreter anew for each process, so that no two share a memory layout.
"""

import importlib
import sys
from typing import NoReturn

import msgspec

from pysmtpd.base.procs import CHILDREN, Proc
from pysmtpd.privsep import lean  # noqa: F401  (before all that could import asyncio)
from pysmtpd.privsep.log import Log
from pysmtpd.privsep.process import Birth, Process


def main() -> NoReturn:
    """Become the process that the argument names."""
    birth = msgspec.json.decode(sys.argv[1], type=Birth)
    proc = Proc(birth.proc)
    if proc not in CHILDREN:
        raise SystemExit(f"there is no process {birth.proc}")
    module = importlib.import_module(f"pysmtpd.{proc.value}")
    kind: type[Process] = getattr(module, proc.value.capitalize())
    kind(birth, Log(stderr=birth.stderr, verbose=bool(birth.verbose))).run()


if __name__ == "__main__":
    main()
