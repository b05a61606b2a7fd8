"""``python -m bench.crowd [--clients 10000] [--tls 1000]``: what idle connections cost the smtp process.

Both ends are on this machine; the clients come from several addresses of 127.0.0.0/8, and say EHLO before they fall
silent.  Without TLS none may take more than 10 KB; exit status 1 if one does, or if the daemon does not serve another
client meanwhile.  A thousand with TLS are reported.
"""

import argparse
import contextlib
import resource
import smtplib
import socket
import ssl
import sys
import time

import trustme

from bench.tls import CONFIG, NAME
from pysmtpd.base.procs import Proc
from tests.support.certificates import pem_of, write_pair
from tests.support.daemon import Daemon, free_port, memory, scratch

EACH_MAX = 10 * 1024               # octets of our process for one idle connection without TLS
WARM = 200                         # connections before the first look
SPARE = 300                        # descriptors for all else
SOURCES = 20                       # addresses


def idle(port: int, number: int, context: ssl.SSLContext | None) -> socket.socket:
    """A client that has said EHLO."""
    sock: socket.socket = socket.create_connection(
        ("127.0.0.1", port), timeout=60, source_address=(f"127.0.0.{2 + number % SOURCES}", 0))
    if context is not None:
        sock = context.wrap_socket(sock, server_hostname=NAME)
    heard = sock.recv(1000)
    if not heard.startswith(b"220 "):
        raise SystemExit(f"bench: no greeting for client {number}: {heard!r}")
    sock.sendall(b"EHLO idle.example\r\n")
    while b"250 HELP\r\n" not in heard:
        heard += sock.recv(4096)
    return sock


def crowd(pid: int, port: int, count: int, context: ssl.SSLContext | None) -> float:
    """Octets of the process for each of so many, while all are there."""
    with contextlib.ExitStack() as stack:
        for number in range(WARM):
            stack.enter_context(idle(port, number, context))
        before = memory(pid, "VmRSS")
        start = time.monotonic()
        for number in range(count):
            stack.enter_context(idle(port, number, context))
        each = (memory(pid, "VmRSS") - before) / count
        seconds = time.monotonic() - start
        with smtplib.SMTP("127.0.0.1", port, timeout=20) if context is None else \
                smtplib.SMTP_SSL("127.0.0.1", port, timeout=20, context=insecure()) as client:
            if client.noop()[0] != 250:
                raise SystemExit("bench: nobody is served any more")
        kind = "with TLS" if context is not None else "without TLS"
        print(f"{count} idle connections {kind}: {each:.0f} octets each, {memory(pid, 'VmRSS') >> 20} MiB in all; "
              f"opened in {seconds:.1f} s", flush=True)
        return each


def insecure() -> ssl.SSLContext:
    """For a client that only wants to be served."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.crowd", description=__doc__)
    parser.add_argument("--clients", type=int, default=10000)
    parser.add_argument("--tls", type=int, default=1000)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < max(options.clients, options.tls) + WARM + SPARE:
        print(f"bench: at most {hard} descriptors: raise the limit (ulimit -Hn), or ask for fewer --clients",
              file=sys.stderr)
        return 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    where, authority = scratch(), trustme.CA()
    write_pair(where, pem_of(authority, NAME))
    ports = {"tls": free_port(), "plain": free_port()}
    with Daemon(CONFIG.format(where=where, name=NAME, **ports), where=where) as daemon:
        each = crowd(daemon.pids()[Proc.SMTP], ports["plain"], options.clients, None)
    where = scratch()
    write_pair(where, pem_of(authority, NAME))
    with Daemon(CONFIG.format(where=where, name=NAME, **ports), where=where) as daemon:
        crowd(daemon.pids()[Proc.SMTP], ports["tls"], options.tls,
              ssl.create_default_context(cadata=authority.cert_pem.bytes().decode()))
    return 1 if each > EACH_MAX else 0


if __name__ == "__main__":
    sys.exit(main())
