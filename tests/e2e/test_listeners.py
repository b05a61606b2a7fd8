"""Listeners of the real daemon: several smtp processes, absent addresses, sockets of a service manager."""

import re
import shutil
import smtplib
import socket
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import IS_ROOT, Start
from tests.support import mail
from tests.support.daemon import Daemon, descendants, title, until

CONFIG = """
smtp workers {workers}
listen on {address} port {port}
action "local" maildir "{box}/m"
match from any for local action "local"
"""

# Listens where told, says so as a service manager does, and becomes the daemon.
ACTIVATE = """
import os, socket, sys
sock = socket.socket()
sock.bind(("127.0.0.1", int(sys.argv[1])))
sock.listen(511)
sock.set_inheritable(True)
os.dup2(sock.fileno(), 3)
os.environ["LISTEN_FDS"], os.environ["LISTEN_PID"] = "1", str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_several_processes_share_a_port(start: Start, port: int, box: Path, recipient: object) -> None:
    daemon = start(CONFIG.format(workers=3, address="127.0.0.1", port=port, box=box))
    titles = {title(pid) for pid in descendants(daemon.pid)}
    assert titles >= {"pysmtpd: smtp", "pysmtpd: smtp 1", "pysmtpd: smtp 2"}
    clients = []
    for number in range(24):
        client = smtplib.SMTP("127.0.0.1", port, timeout=20)
        clients.append(client)
        mail.send(port, f"{recipient.pw_name}@localhost", f"m{number}")  # type: ignore[attr-defined]
    until(lambda: len(mail.maildir(box / "m")) == 24, "24 deliveries", 30)
    stats = daemon.smtpctl("show", "stats").stdout.decode()
    assert int(re.findall(r"^smtp\.session=(\d+)$", stats, re.M)[0]) == 24
    daemon.smtpctl("pause", "smtp")
    with pytest.raises(OSError):
        smtplib.SMTP("127.0.0.1", port, timeout=1)
    daemon.smtpctl("resume", "smtp")
    for client in clients:
        assert client.noop()[0] == 250
        client.quit()


@pytest.mark.skipif(not IS_ROOT or not shutil.which("ip"), reason="needs root and ip(8)")
@pytest.mark.parametrize("user", ["root"], indirect=True)
def test_an_address_that_comes_later(start: Start, port: int, box: Path) -> None:
    address = f"192.0.2.{port % 200 + 10}"         # RFC 5737: nobody's
    daemon = start(CONFIG.format(workers=1, address=address, port=port, box=box))
    daemon.until_logged(rf"warn: {re.escape(address)} port \d+ \(.*\): not an address of this machine now")
    if subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=False).returncode:
        pytest.skip("may not add an address to lo")
    try:
        daemon.until_logged(rf"info: listening on {re.escape(address)} port", 20)
        with smtplib.SMTP(address, port, timeout=20) as client:
            assert client.noop()[0] == 250
    finally:
        subprocess.run(["ip", "address", "del", f"{address}/32", "dev", "lo"], check=False)


class Capable(Daemon):
    """One that may listen on ports below 1024, and is not root."""

    def _popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        ids = ["--reuid", self.owner.pw_name, "--regid", str(self.owner.pw_gid), "--clear-groups"]
        capability = ["--inh-caps", "+net_bind_service", "--ambient-caps", "+net_bind_service"]
        with open(self.where / "log", "ab") as log:
            return subprocess.Popen(["setpriv", *ids, *capability, *command], cwd="/", env=self.environ, stdout=log,
                                    stdin=subprocess.DEVNULL, stderr=log, start_new_session=True)


@pytest.mark.skipif(not IS_ROOT or not shutil.which("setpriv"), reason="needs root and setpriv(1)")
@pytest.mark.parametrize("user", ["user"], indirect=True)
def test_a_port_below_1024_with_the_capability_for_it(user: str, box: Path) -> None:
    """Which the parent alone keeps."""
    port = next(port for port in range(1023, 500, -1) if not connects(port))
    with Capable(CONFIG.format(workers=1, address="127.0.0.1", port=port, box=box), user=user) as daemon:
        with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
            assert client.noop()[0] == 250
        permitted = {pid: re.findall(r"^CapPrm:\t0*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
                     for pid in daemon.every_pid()}
        assert permitted.pop(daemon.pid) == ["400"]
        assert {*map(tuple, permitted.values())} == {("0",)}


def connects(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_sockets_of_a_service_manager(start: Start, port: int, box: Path, where: Path) -> None:
    manager = where / "manager"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(manager))
        manager.chmod(0o777)
        sock.settimeout(20)
        script = where / "activate.py"
        script.write_text(ACTIVATE)
        daemon = start(CONFIG.format(workers=1, address="127.0.0.1", port=port, box=box),
                       environ={"NOTIFY_SOCKET": str(manager)}, wrapper=["python3", str(script), str(port)])
        assert sock.recv(100) == b"READY=1"
        with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
            assert client.noop()[0] == 250
        daemon.stop()
        assert sock.recv(100) == b"STOPPING=1"
