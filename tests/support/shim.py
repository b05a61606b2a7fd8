"""Disks that misbehave: a library put before the C library's fsync, compiled when a test needs it."""

import hashlib
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests.support.debian import Unavailable, cache_dir

# Fails or delays every sync while the file named by PYSMTPD_SHIM exists... but our processes have an emptied
# environment and a root of their own, so what it does is compiled in.
SOURCE = """\
#define _GNU_SOURCE
#include <errno.h>
#include <time.h>
#include <unistd.h>
#include <sys/syscall.h>

static int sync_fd(long call, int fd)
{
    struct timespec delay = { 0, DELAY_MS * 1000000L };
    if (DELAY_MS)
        nanosleep(&delay, 0);
    if (FAIL) {
        errno = EIO;
        return -1;
    }
    return syscall(call, fd);
}

int fsync(int fd) { return sync_fd(SYS_fsync, fd); }
int fdatasync(int fd) { return sync_fd(SYS_fdatasync, fd); }
"""


@cache
def library(*, delay_ms: int = 0, fail: bool = False) -> str:
    """The path of such a library, for LD_PRELOAD.  Raises Unavailable without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Unavailable("there is no C compiler to make a disk misbehave")
    name = hashlib.sha256(SOURCE.encode()).hexdigest()[:12]
    path = Path(cache_dir(), f"shim-{name}-{delay_ms}-{int(fail)}.so")
    if not path.exists():
        own = path.with_suffix(f".{id(path)}")
        done = subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", f"-DDELAY_MS={delay_ms}", f"-DFAIL={int(fail)}", "-x", "c", "-", "-o",
             str(own)], input=SOURCE, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise Unavailable(f"{compiler}: {done.stderr}")
        own.chmod(0o755)
        own.rename(path)
    return str(path)
