"""A network and mount namespace of the benchmark's own, with its own name server, where that is allowed.

In it every system relays by MX to a sink on port 25, as it would in earnest; elsewhere to a smarthost on a free port.
"""

import contextlib
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from tests.support import debian
from tests.support.daemon import free_port

DOMAIN = "bench.example"
SINK_ADDRESS = "192.0.2.25"        # resolvers ignore a family of which there are only loopback addresses
INSIDE = "--inside"
MTU = 1500                         # as on most networks: loopback's own 64 KiB hide or cause stalls that nobody has
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFMTU, _IFF_UP = 0x8913, 0x8914, 0x8916, 0x8922, 1


class Place(NamedTuple):
    """Where the benchmark runs."""

    namespace: bool
    sink_address: str
    sink_port: int
    resolver: str                  # empty: the system's

    @property
    def smarthost(self) -> str:
        """host:port, or empty where the MX of DOMAIN leads to the sink."""
        return "" if self.resolver else f"{self.sink_address}:{self.sink_port}"


PROGRAMS = (("dnsmasq-base", "usr/sbin/dnsmasq"), ("postfix", "usr/sbin/smtp-sink"), ("opensmtpd", "usr/sbin/smtpd"))


def allowed() -> str:
    """Why there is no namespace; empty when there can be one."""
    if os.geteuid() != 0:
        return "not root"
    if shutil.which("unshare") is None:
        return "there is no unshare"
    done = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False,
                          timeout=30)
    return "" if done.returncode == 0 else done.stderr.strip() or "not permitted"


def enter(arguments: list[str]) -> NoReturn:
    """Run the same command again, in namespaces of its own, where no package can be fetched any more."""
    for package, path in PROGRAMS:
        with contextlib.suppress(debian.Unavailable):
            debian.tool(package, path)     # whoever cannot do without it says so
    os.execvp("unshare", ["unshare", "--net", "--mount", "--", sys.executable, "-m", "bench", INSIDE, *arguments])


def outside() -> Place:
    """Loopback ports of this machine."""
    return Place(False, "127.0.0.1", free_port(), "")


@contextlib.contextmanager
def inside(scratch: Path) -> Iterator[Place]:
    """The namespace, with loopback up and a name server that knows DOMAIN, if dnsmasq can be had."""
    _loopback_up()
    try:
        dnsmasq = debian.tool("dnsmasq-base", "usr/sbin/dnsmasq")
    except debian.Unavailable as why:
        print(f"no name server ({why}): relaying to a smarthost", file=sys.stderr)
        yield Place(True, SINK_ADDRESS, 25, "")
        return
    resolv = scratch / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.1\n", encoding="ascii")
    subprocess.run(["mount", "--bind", str(resolv), "/etc/resolv.conf"], check=True, timeout=30)
    process = subprocess.Popen([
        dnsmasq.path, "--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--user=nobody",
        "--listen-address=127.0.0.1", "--bind-interfaces", "--auth-ttl=3600", "--local-ttl=3600",
        f"--pid-file={scratch}/dnsmasq.pid", f"--mx-host={DOMAIN},sink.{DOMAIN},10",
        f"--host-record=sink.{DOMAIN},{SINK_ADDRESS}", "--host-record=localhost,127.0.0.1", "--local=/#/",
    ], env=dnsmasq.env)
    try:
        _wait_dns(process)
        yield Place(True, SINK_ADDRESS, 25, "127.0.0.1")
    finally:
        process.terminate()
        process.wait(10)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16xh14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[0]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
        fcntl.ioctl(sock, _SIOCSIFMTU, struct.pack("16si20x", b"lo", MTU))
        address = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(SINK_ADDRESS))
        fcntl.ioctl(sock, _SIOCSIFADDR, struct.pack("16s16s8x", b"lo:1", address))


def _wait_dns(process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 5
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 53), 1):
            return
        time.sleep(0.02)
    raise SystemExit("bench: dnsmasq does not start")
