"""conf: reads smtpd.conf with the parent's privileges, hands each process its view, and leaves.

It is a process of its own so that no password of the configuration ever is in the memory of the parent, which
lives as long as the daemon.  Errors go to standard error, and the daemon does not start.
"""

import os
import socket
import sys
from typing import NoReturn

import msgspec
import setproctitle

from pysmtpd.base.procs import Proc
from pysmtpd.base.struct import Frozen, replace
from pysmtpd.conf import config as conf_config
from pysmtpd.conf.config import Config, Secret
from pysmtpd.imsg import CHUNK_MAX, ImsgError
from pysmtpd.messages import ConfDone, ConfView, SetupDone, SetupPeer
from pysmtpd.privsep.mproc import Peer

PARENT_FD = 3
TIMEOUT = 20.0
KEY_TIMEOUT = 120.0                # seconds for somebody to type a key


class Job(Frozen):
    """What the parent asks for."""

    path: str
    macros: dict[str, str] = {}
    user: str = ""                 # without root
    state_dir: str = ""
    verbose: bool = False


class _Nobody:
    """Peers used without a loop never report."""

    def peer_frame(self, peer: Peer, frame: object) -> None:
        raise AssertionError

    def peer_lost(self, peer: Peer, reason: str) -> None:
        raise AssertionError


def read(job: Job, *, network: bool = False) -> Config | None:
    """The configuration, or None after its errors were printed; a mere check asks no network."""
    from pysmtpd.conf.load import load
    from pysmtpd.privsep.source import SystemSource

    source = SystemSource(network=network)
    loaded = load(job.path, source, job.macros, unprivileged_user=job.user, state_dir=job.state_dir)
    if loaded.config is not None and loaded.config.expectations:
        from pysmtpd.lookup import trial

        unknown = (None, "an included file could not be read", list[str]())
        loaded.tested([unknown] * len(loaded.config.expectations) if loaded.incomplete
                      else trial.run(loaded.config, loaded.config.expectations))
    if loaded.config is not None and job.verbose and not loaded.incomplete:
        from pysmtpd.lookup import reach

        loaded.warned(reach.warnings(loaded.config))
    for error in loaded.errors:
        print(error, file=sys.stderr)
    for warning in loaded.warnings if job.verbose else loaded.unchecked:
        print(warning, file=sys.stderr)
    if job.verbose or network:
        # Whoever starts the daemon must know, asked or not, what of the file it does not obey.
        for at, what in loaded.not_in_effect:
            print(f"{at}: not yet in effect: {what}", file=sys.stderr)
    return None if loaded.errors else loaded.config


def _send_view(peer: Peer, view: bytes) -> None:
    peer.socket.settimeout(TIMEOUT)
    for at in range(0, len(view), CHUNK_MAX):
        peer.send_now(ConfView(view[at : at + CHUNK_MAX], at + CHUNK_MAX >= len(view)))


def _serve(parent: Peer, config: Config) -> None:
    owner = _Nobody()
    _send_view(parent, conf_config.encode(conf_config.view(config, Proc.PARENT)))
    peers: list[Peer] = []
    while True:
        for frame in parent.receive_now():
            message = frame.message
            if isinstance(message, SetupDone):
                for peer in peers:
                    _send_view(peer, conf_config.encode(conf_config.view(config, peer.proc)))
                parent.send_now(ConfDone())
                return
            assert isinstance(message, SetupPeer)
            sock = socket.socket(fileno=parent.take_fd())
            peers.append(Peer(owner, sock, Proc.CONF, Proc(message.proc), message.index))


def _with_key(config: Config) -> Config:
    """The same with the key of the queue, which smtpd.conf does not hold."""
    from pysmtpd.privsep.queue_key import read_key
    from pysmtpd.privsep.startup import StartError

    try:
        key = read_key(stdin=config.queue_key_stdin, timeout=KEY_TIMEOUT)
    except StartError as error:
        print(f"pysmtpd: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    return replace(config, queue_key=Secret(key))


def main() -> NoReturn:
    """``python -I -m pysmtpd.readconf JOB``, started by the parent with its socket as descriptor 3."""
    job = msgspec.json.decode(sys.argv[1], type=Job)
    setproctitle.setproctitle("pysmtpd: conf")
    config = read(job, network=True)
    if config is None:
        os._exit(1)
    if config.queue_encryption and config.queue_key is None:
        config = _with_key(config)
    parent = Peer(_Nobody(), socket.socket(fileno=PARENT_FD), Proc.CONF, Proc.PARENT)
    parent.socket.settimeout(TIMEOUT)
    try:
        _serve(parent, config)
    except (OSError, ImsgError):
        # The parent gave up, and says why itself.
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
