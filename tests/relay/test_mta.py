"""The process mta with real sockets and real TLS; queue and lka are played by the test, over real imsg."""

import asyncio
import os
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
import trustme

from pysmtpd.base.logline import Level
from pysmtpd.base.procs import Proc
from pysmtpd.conf.config import Action, Config, Method
from pysmtpd.imsg import Frame
from pysmtpd.messages import (
    BodyOpen,
    Delivered,
    Found,
    Host,
    HostList,
    MtaLookedUp,
    MtaLookup,
    MtaResolve,
    MtaResolved,
    Outcome,
    QueueBody,
    QueueDeliver,
    Result,
    SetupFile,
)
from pysmtpd.mta import Mta
from pysmtpd.privsep.log import Log
from pysmtpd.privsep.mproc import Peer, pair
from pysmtpd.privsep.process import Birth
from tests.relay.world import BODY, envelope
from tests.support.sink import Sink

TIMEOUT = 10.0


class QuietLog(Log):
    """Keeps its lines."""

    def __init__(self) -> None:
        super().__init__(stderr=False, verbose=False)
        self.lines: list[str] = []

    def write(self, line: str, level: Level = Level.INFO) -> None:
        self.lines.append(line)


class House:
    """An mta and the two processes it speaks with."""

    def __init__(self, url: str, files: dict[tuple[str, str], bytes] | None = None, **action: Any) -> None:
        self.url = url
        self.loop = asyncio.SelectorEventLoop()
        self.log = QuietLog()
        self.results: list[Result] = []
        self.expected = 0
        self.mta = Mta(Birth(proc="mta", uid=0, gid=0, spool="", socket="", stderr=False, verbose=0), self.log)
        self.mta.loop = self.loop
        self.mta.preload()
        self.sockets: list[socket.socket] = []
        self.ends: dict[Proc, Peer] = {}
        for proc in (Proc.PARENT, Proc.QUEUE, Proc.LKA):
            ours, theirs = pair()
            self.mta._peers[proc] = [Peer(self.mta, theirs, Proc.MTA, proc)]
            self.ends[proc] = Peer(self, ours, proc, Proc.MTA)
            self.sockets += [ours, theirs]
        for (kind, name), data in (files or {}).items():
            self._hand_over(kind, name, data)
        self.mta.config = Config(hostname="me.example", actions={
            "out": Action(name="out", method=Method.RELAY, host="<hosts>", **action)})
        self.mta.setup()
        self.mta.start()
        for peer in (*[peers[0] for peers in self.mta._peers.values()], *self.ends.values()):
            peer.attach(self.loop)

    def _hand_over(self, kind: str, name: str, data: bytes) -> None:
        fd = os.memfd_create(name)
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        peer = self.mta.peer(Proc.PARENT)
        peer.fd = fd
        self.mta.setup_file(peer, SetupFile(kind, name))

    def peer_frame(self, peer: Peer, frame: Frame) -> None:
        match frame.message:
            case BodyOpen(reqid, _):
                peer.send(QueueBody(reqid, BODY, True))
            case Delivered(results):
                self.results += results
                if len(self.results) >= self.expected:
                    self.loop.stop()
            case MtaLookup(reqid, service, _, _):
                value = self.url if service == "relayhost" else "sink.example"
                peer.send(MtaLookedUp(reqid, Found.YES, value))
            case MtaResolve(reqid, name, _):
                peer.send(MtaResolved(reqid, HostList.OK, [Host(0, name, "127.0.0.1")], "", ""))
            case _:
                pass

    def peer_lost(self, peer: Peer, reason: str) -> None:
        raise AssertionError(reason)

    def deliver(self, *rcpts: str, msgid: int = 1) -> list[Result]:
        """Until the results are there."""
        self.expected = len(self.results) + len(rcpts)
        for number, rcpt in enumerate(rcpts, 1):
            self.ends[Proc.QUEUE].send(QueueDeliver(envelope(rcpt, msgid << 32 | number), len(BODY), False))
        alarm = self.loop.call_later(TIMEOUT, self.loop.stop)
        self.loop.run_forever()
        alarm.cancel()
        return self.results

    def logged(self, text: str) -> list[str]:
        return [line for line in self.log.lines if text in line]

    def close(self) -> None:
        for relay in self.mta.agent.relays.values():
            for session in relay.sessions:
                if session.link is not None:
                    session.link.abort()
        for sock in self.sockets:
            sock.close()
        self.loop.close()


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_tls(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("sink.example", "localhost").configure_cert(context)
    return context


@pytest.fixture
def house() -> Iterator[list[House]]:
    """Houses put in here are closed."""
    built: list[House] = []
    yield built
    for one in built:
        one.close()


def build(house: list[House], sink: Sink, schema: str, files: dict[tuple[str, str], bytes] | None = None,
          host: str = "127.0.0.1", **action: Any) -> House:
    one = House(f"{schema}://{host}:{sink.port}", files, **action)
    house.append(one)
    return one


def test_a_message_over_tcp(house: list[House]) -> None:
    with Sink() as sink:
        one = build(house, sink, "smtp")
        results = one.deliver("b@b.example", "c@c.example")
    assert [result.outcome for result in results] == [Outcome.OK, Outcome.OK]
    assert [(got.sender, got.rcpts, got.data) for got in sink.messages] == [
        ("a@a.example", ["b@b.example", "c@c.example"], BODY)]
    assert one.logged('source="127.0.0.1" relay="127.0.0.1 (sink.example)"')


def test_lmtp(house: list[House]) -> None:
    with Sink(lmtp=True) as sink:
        results = build(house, sink, "lmtp").deliver("b@b.example", "c@c.example")
    assert [result.outcome for result in results] == [Outcome.OK, Outcome.OK]
    assert sink.commands[0] == "LHLO me.example"


@pytest.mark.parametrize("schema", ["smtp", "smtp+tls", "smtps"])
def test_tls_without_verification(house: list[House], server_tls: ssl.SSLContext, schema: str) -> None:
    with Sink(tls=server_tls, smtps=schema == "smtps") as sink:
        one = build(house, sink, schema, tls="" if schema == "smtp" else "no-verify")
        results = one.deliver("b@b.example")
    assert [result.outcome for result in results] == [Outcome.OK]
    assert [got.tls for got in sink.messages] == [True]
    assert one.logged("mta tls ciphers=TLSv1.3:") and one.logged('mta cert-check result="unverified"')


def test_a_certificate_of_our_ca_is_valid(house: list[House], server_tls: ssl.SSLContext, ca: trustme.CA) -> None:
    with Sink(tls=server_tls) as sink:
        one = build(house, sink, "smtp+tls", {("ca", "ours"): ca.cert_pem.bytes()}, "127.0.0.1", ca="ours")
        results = one.deliver("b@b.example")
    # The certificate is for sink.example and localhost, not for the address we called it by.
    assert [result.outcome for result in results] == [Outcome.TEMPFAIL] and not sink.messages
    assert one.logged("mta error reason=IO Error: TLS:")


def test_a_verified_name(house: list[House], server_tls: ssl.SSLContext, ca: trustme.CA) -> None:
    with Sink(tls=server_tls) as sink:
        one = build(house, sink, "smtp+tls", {("ca", "ours"): ca.cert_pem.bytes()}, "localhost", ca="ours")
        results = one.deliver("b@b.example")
    assert [result.outcome for result in results] == [Outcome.OK]
    assert one.logged('mta cert-check result="valid" fingerprint="SHA256:')


def test_an_unknown_ca_is_refused(house: list[House], server_tls: ssl.SSLContext) -> None:
    other = trustme.CA()
    with Sink(tls=server_tls) as sink:
        one = build(house, sink, "smtp+tls", {("ca", "ours"): other.cert_pem.bytes()}, "localhost", ca="ours")
        results = one.deliver("b@b.example")
    assert [result.outcome for result in results] == [Outcome.TEMPFAIL] and not sink.messages
    assert "certificate verify failed" in results[0].text


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_failed_handshake_goes_on_in_the_clear(house: list[House], ca: trustme.CA, version: ssl.TLSVersion) -> None:
    """Also when it fails after its end, as with TLS 1.3 and a server that demands a certificate of ours."""
    demanding = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("sink.example").configure_cert(demanding)
    demanding.verify_mode = ssl.CERT_REQUIRED
    demanding.maximum_version = version
    with Sink(tls=demanding) as sink:
        one = build(house, sink, "smtp")
        results = one.deliver("b@b.example")
    assert [result.outcome for result in results] == [Outcome.OK]
    assert [got.tls for got in sink.messages] == [False]
    assert one.logged("opportunistic TLS failed, downgrading to plain")


def test_a_certificate_of_our_own(house: list[House], ca: trustme.CA) -> None:
    demanding = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("sink.example").configure_cert(demanding)
    ca.configure_trust(demanding)
    demanding.verify_mode = ssl.CERT_REQUIRED
    mine = ca.issue_cert("me.example")
    files = {("cert", "me"): b"".join(pem.bytes() for pem in mine.cert_chain_pems),
             ("key", "me"): mine.private_key_pem.bytes()}
    with Sink(tls=demanding) as sink:
        results = build(house, sink, "smtp+tls", files, pki="me", tls="no-verify").deliver("b@b.example")
    assert [result.outcome for result in results] == [Outcome.OK] and sink.messages[0].tls


def test_nobody_there(house: list[House]) -> None:
    with Sink() as sink:
        port = sink.port
    one = House(f"smtp://127.0.0.1:{port}")
    house.append(one)
    results = one.deliver("b@b.example")
    assert [result.text for result in results] == [
        "Network error on destination MXs: IO Error: Connection refused"]


def test_it_leaves_when_all_is_said(house: list[House]) -> None:
    with Sink() as sink:
        one = build(house, sink, "smtp")
        one.deliver("b@b.example")
        one.mta.drain()
        one.loop.run_forever()
    assert one.mta._leaving and one.mta.agent.quiet
