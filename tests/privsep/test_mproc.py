"""Peers over a real socketpair: frames, descriptors, refusal of what may not be."""

import asyncio
import os
import socket
from collections.abc import Callable

import pytest

from pysmtpd.base.procs import Proc
from pysmtpd.imsg import HEADER, Frame, ImsgError, Message
from pysmtpd.messages import BodyClose, BodyOpen, CtlSubmitReady, LogSocket, QueueBody, SmtpMsgids
from pysmtpd.privsep import mproc
from pysmtpd.privsep.mproc import Peer, pair


class Owner:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.lost: list[str] = []
        self.fds: list[int] = []
        self.claim = False

    def peer_frame(self, peer: Peer, frame: Frame) -> None:
        self.messages.append(frame.message)
        if frame.spec.fd and self.claim:
            self.fds.append(peer.claim_fd())

    def peer_lost(self, peer: Peer, reason: str) -> None:
        self.lost.append(reason)


def until(loop: asyncio.AbstractEventLoop, done: Callable[[], bool]) -> None:
    """Run the loop until something holds, for at most five seconds."""
    end = loop.time() + 5
    while not done():
        assert loop.time() < end, "never happened"
        loop.run_until_complete(asyncio.sleep(0.001))


class Ends:
    """mta and queue at the two ends of a socketpair."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        a, b = pair()
        self.raw = a
        self.mta_owner, self.queue_owner = Owner(), Owner()
        self.mta = Peer(self.mta_owner, a, Proc.MTA, Proc.QUEUE)
        self.queue = Peer(self.queue_owner, b, Proc.QUEUE, Proc.MTA)
        for peer in (self.mta, self.queue):
            peer.attach(self.loop)

    def close(self) -> None:
        self.mta.close()
        self.queue.close()
        self.loop.close()


@pytest.fixture
def ends():  # type: ignore[no-untyped-def]
    both = Ends()
    yield both
    both.close()


def test_frames_of_one_turn_leave_in_one_send(ends: Ends) -> None:
    for number in range(100):
        ends.mta.send(BodyClose(number))
    assert ends.mta.backlog > 0
    until(ends.loop, lambda: len(ends.queue_owner.messages) == 100)
    assert ends.queue_owner.messages == [BodyClose(number) for number in range(100)]
    assert ends.mta.backlog == 0


def test_more_than_the_kernel_takes_at_once(ends: Ends) -> None:
    chunk = bytes(range(256)) * 256
    for number in range(100):
        ends.queue.send(QueueBody(number, chunk, False))
    until(ends.loop, lambda: len(ends.mta_owner.messages) == 100)
    assert ends.mta_owner.messages[99] == QueueBody(99, chunk, False)


def test_room_is_told_of_once_there_is_some(ends: Ends) -> None:
    body = QueueBody(1, b"x" * 60000, False)
    for _ in range(200):
        ends.queue.send(body)
    until(ends.loop, lambda: len(ends.mta_owner.messages) > 3)
    for _ in range(200):
        ends.queue.send(body)
    told: list[int] = []
    ends.queue.when_room(1_000_000, lambda: told.append(ends.queue.backlog))
    assert ends.queue.backlog > 1_000_000
    until(ends.loop, lambda: len(ends.mta_owner.messages) == 400)
    assert len(told) == 1
    assert told[0] <= 1_000_000


def test_a_message_off_its_route_is_not_sent(ends: Ends) -> None:
    with pytest.raises(ImsgError, match="SmtpMsgids: not from mta to queue"):
        ends.mta.send(SmtpMsgids(1, 1))


def test_a_message_off_its_route_is_refused_on_the_wire(ends: Ends) -> None:
    body = b"\x92\x01\x01"
    ends.raw.send(HEADER.pack(0x41, 0, HEADER.size + len(body), 0, 1) + body)
    until(ends.loop, lambda: bool(ends.queue_owner.lost))
    assert ends.queue_owner.lost == ["invalid imsg: SmtpMsgids: not from mta to queue"]
    assert ends.queue_owner.messages == []


def test_end_of_file_is_told_once(ends: Ends) -> None:
    ends.mta.send(BodyOpen(1, 2))
    ends.mta.close()
    until(ends.loop, lambda: bool(ends.queue_owner.lost))
    assert ends.queue_owner.messages == [BodyOpen(1, 2)]
    assert ends.queue_owner.lost == ["socket closed"]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_descriptors_arrive_with_their_frames() -> None:
    loop = asyncio.new_event_loop()
    a, b = pair()
    sender, owner = Owner(), Owner()
    owner.claim = True
    parent = Peer(sender, a, Proc.PARENT, Proc.SMTP)
    smtp = Peer(owner, b, Proc.SMTP, Proc.PARENT)
    parent.attach(loop)
    smtp.attach(loop)
    pipes = [os.pipe() for _ in range(20)]
    for number, (reading, writing) in enumerate(pipes):
        os.write(writing, b"%d" % number)
        os.close(writing)
        parent.send(LogSocket(), reading)
    until(loop, lambda: len(owner.fds) == 20)
    assert [os.read(fd, 10) for fd in owner.fds] == [b"%d" % number for number in range(20)]
    for fd in owner.fds:
        os.close(fd)
    parent.close()
    smtp.close()
    loop.close()


def test_a_descriptor_nobody_claims_is_closed() -> None:
    loop = asyncio.new_event_loop()
    a, b = pair()
    owner = Owner()
    control = Peer(Owner(), a, Proc.SMTP, Proc.CONTROL)
    peer = Peer(owner, b, Proc.CONTROL, Proc.SMTP)
    control.attach(loop)
    peer.attach(loop)
    before = descriptors()
    control.send(CtlSubmitReady(1), os.open("/dev/null", os.O_RDONLY))
    until(loop, lambda: bool(owner.messages))
    assert descriptors() == before
    control.close()
    peer.close()
    loop.close()


def test_a_frame_without_its_descriptor_ends_the_peer(ends: Ends) -> None:
    loop = ends.loop
    a, b = socket.socketpair()
    owner = Owner()
    peer = Peer(owner, b, Proc.CONTROL, Proc.SMTP)
    peer.attach(loop)
    body = b"\x91\x01"
    a.send(HEADER.pack(0xE1, 1, HEADER.size + len(body), 0, 1) + body)
    until(loop, lambda: bool(owner.lost))
    assert owner.lost == ["invalid imsg: a frame without its descriptor"]
    a.close()


def test_descriptors_can_be_refused() -> None:
    """The last close of a socket that lingers blocks: who may not send descriptors must not be able to."""
    ours, theirs = pair()
    with ours, theirs, open(os.devnull, "rb") as null:
        try:
            ours.setsockopt(socket.SOL_SOCKET, mproc._SO_PASSRIGHTS, 1)
        except OSError:
            pytest.skip("this kernel cannot refuse descriptors (Linux 6.16 can)")
        mproc.refuse_descriptors(ours)
        with pytest.raises(PermissionError):
            socket.send_fds(theirs, [b"x"], [null.fileno()])
        theirs.send(b"y")
        assert ours.recv(10) == b"y"
