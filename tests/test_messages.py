"""Every message there is: it arrives as it was sent, and damaged it is refused or arrives as some other valid value."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pysmtpd import imsg, messages
from pysmtpd.base.procs import PROCS, Proc
from pysmtpd.imsg import BY_NUMBER, Decoder, Encoder, ImsgError, Spec
from tests.support.wire import messages as examples

SPECS = [spec for _, spec in sorted(BY_NUMBER.items())]
EVERY = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.cls.__name__)
FEW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@EVERY
@FEW
@given(data=st.data())
def test_what_is_sent_arrives(spec: Spec, data: st.DataObject) -> None:
    message = data.draw(examples(spec.cls))
    for route in spec.routes:
        frame = Encoder(route.src, route.dst, 1).encode(message)
        assert [got.message for got in Decoder(route.src, route.dst).feed(frame)] == [message]


@EVERY
@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_damage_is_refused_or_valid(spec: Spec, data: st.DataObject) -> None:
    route = min(spec.routes, key=str)
    frame = Encoder(route.src, route.dst, 1).encode(data.draw(examples(spec.cls)))
    encoder = Encoder(route.src, route.dst, 1)
    for at in range(min(len(frame), 200)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(frame)
            damaged[at] ^= flip
            try:
                got = [one.message for one in Decoder(route.src, route.dst).feed(bytes(damaged))]
            except ImsgError:
                continue
            for message in got:
                encoder.encode(message)     # whatever was accepted is a value that may be


@EVERY
def test_a_wrong_route_is_refused(spec: Spec) -> None:
    wrong = [src >> dst for src in Proc for dst in Proc if src is not dst and src >> dst not in spec.routes]
    header = imsg.HEADER.pack(spec.number, imsg.FLAG_FD if spec.fd else 0, imsg.HEADER_SIZE + 1, 0, 0)
    for route in wrong:
        with pytest.raises(ImsgError, match=f"{spec.cls.__name__}: not from {route.src.value} to {route.dst.value}"):
            list(Decoder(route.src, route.dst).feed(header + b"\x90"))


def test_every_declared_message_is_tested_here() -> None:
    named = {value for value in vars(messages).values() if isinstance(value, type) and value in imsg.BY_CLASS}
    assert named == {spec.cls for spec in SPECS}


def test_two_processes_are_connected_when_and_only_when_they_may_speak() -> None:
    spoken = {frozenset(route) for spec in SPECS for route in spec.routes}
    connected = {frozenset((proc, peer)) for proc, role in PROCS.items() for peer in role.peers}
    assert {tuple(sorted(one.value for one in pair)) for pair in spoken ^ connected} == set()


def test_peers_are_mutual() -> None:
    assert [(proc, peer) for proc, role in PROCS.items() for peer in role.peers if proc not in PROCS[peer].peers] == []


def test_only_a_few_messages_are_bulk_or_carry_a_descriptor() -> None:
    assert {spec.cls.__name__ for spec in SPECS if spec.bulk} == {
        "ConfView", "SmtpBody", "SmtpMessage", "QueueDeliver", "QueueBody", "WorkerBody", "CtlText"}
    assert {spec.cls.__name__ for spec in SPECS if spec.fd} == {
        "SetupPeer", "SetupListener", "SetupControlSocket", "SetupFile", "LogSocket", "MdaWorkerStarted",
        "CtlSubmitReady", "ForwardOpened", "AuthStarted", "TableStarted"}


def test_nobody_untrusted_can_say_much() -> None:
    says = {proc: {spec.cls.__name__ for spec in SPECS for route in spec.routes if route.src is proc} for proc in Proc}
    assert says[Proc.WORKER] == {"BodyCredit", "WorkerDelivered"}
    assert says[Proc.AUTH] == {"AuthAnswered"}
    assert says[Proc.CLIENT] == {
        "CtlSubmit", "CtlPause", "CtlEnvelopes", "CtlShowQueue", "CtlShowEnvelope", "CtlShowMessage", "CtlStats",
        "CtlShowStatus", "CtlTrace", "CtlUpdateTable", "CtlExplain", "CtlShowMta", "CtlResumeRoute"}


def test_what_children_may_ask_of_root() -> None:
    # home is the parent's own hand, and says nothing but answers.
    to_parent = {spec.cls.__name__ for spec in SPECS for route in spec.routes
                 if route.dst is Proc.PARENT and route.src is not Proc.HOME}
    assert to_parent == {"ConfView", "ConfDone", "SetupReady", "LogReopen", "MdaWorkerStart", "MdaWorkerStop",
                         "ForwardOpen", "UserTold", "AuthStart", "TableStart", "TableStop"}
