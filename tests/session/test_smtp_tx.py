"""A transaction: numbers of envelopes, pieces of the message, frames that fit."""

import pytest

from pysmtpd.base.ids import MsgId
from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.base.procs import Proc
from pysmtpd.base.seal import KEY_SIZE, Seal
from pysmtpd.base.struct import replace
from pysmtpd.imsg import CHUNK_MAX, Encoder
from pysmtpd.messages import SmtpEnvelopes, SmtpMessage
from pysmtpd.session.parameters import Parameters
from pysmtpd.session.smtp_tx import Tx, template

SEAL = Seal(b"k" * KEY_SIZE)


def transaction(name: str = "x") -> Tx:
    return Tx(MsgId(5), template(
        sender=MailAddr(name, name), parameters=Parameters(), tag=name, smtpname=name, helo=name, hostname=name,
        username=name, source=name, authenticated=False, now=0,
    ))


def add(tx: Tx, rcpt: MailAddr, *, copies: int = 1) -> None:
    first = tx.asked(rcpt, Parameters())
    tx.expanded(SEAL.close([replace(first, evpid=first.evpid + n) for n in range(copies)]), copies)
    tx.accept()


def test_numbers() -> None:
    tx = transaction()
    add(tx, MailAddr("a", "b"), copies=3)
    tx.expanded(SEAL.close([tx.asked(MailAddr("c", "d"), Parameters())]), 1)
    tx.refuse()
    add(tx, MailAddr("e", "f"))
    envelopes = [envelope for sealed in tx.sealed for envelope in SEAL.open(sealed)]
    assert tx.envelopes == 4
    assert [e.evpid for e in envelopes] == [5 << 32 | n for n in (1, 2, 3, 4)]
    assert [str(e.rcpt) for e in envelopes] == ["a@b"] * 3 + ["e@f"]
    assert tx.rcpts == [(MailAddr("a", "b"), 5 << 32 | 3), (MailAddr("e", "f"), 5 << 32 | 4)]


@pytest.mark.parametrize("size", [1, 1000, CHUNK_MAX - 1, CHUNK_MAX, CHUNK_MAX + 1, 3 * CHUNK_MAX])
def test_pieces(size: int) -> None:
    tx = transaction()
    data = bytes(i % 251 for i in range(size))
    out = []
    for _ in range(4):
        out += tx.write(data)
    assert tx.sent is bool(out)
    assert all(len(piece) == CHUNK_MAX for piece in out)
    last = tx.flush()
    assert 0 < len(last) <= CHUNK_MAX
    assert b"".join(out) + last == data * 4
    assert tx.size == 4 * size


@pytest.mark.parametrize("name", ["x", "n" * 200, "ü" * 100])
def test_every_batch_fits_its_frame(name: str) -> None:
    tx = transaction(name)
    encoder = Encoder(Proc.SMTP, Proc.QUEUE, 1)
    for i in range(300):
        add(tx, MailAddr(f"user{i}", name))
    batches = list(tx.batches())
    for batch in batches:
        encoder.encode(SmtpEnvelopes(1, batch))
    assert [sealed for batch in batches for sealed in batch] == tx.sealed
    assert len(batches) < 300


@pytest.mark.parametrize(("recipients", "size"), [(1, 0), (1, CHUNK_MAX - 500), (100, 20_000), (150, 100)])
def test_what_fits_goes_in_one_frame(recipients: int, size: int) -> None:
    tx = transaction()
    for i in range(recipients):
        add(tx, MailAddr(f"user{i}", "example.org"))
    tx.write(b"x" * size)
    assert tx.fits
    Encoder(Proc.SMTP, Proc.QUEUE, 1).encode(SmtpMessage(1, tx.msgid, tx.sealed, tx.flush()))


@pytest.mark.parametrize(("recipients", "size"), [(1, CHUNK_MAX - 50), (1, 3 * CHUNK_MAX), (1000, 100)])
def test_what_does_not_fit_goes_in_pieces(recipients: int, size: int) -> None:
    tx = transaction()
    for i in range(recipients):
        add(tx, MailAddr(f"user{i}", "example.org"))
    tx.write(b"x" * size)
    assert not tx.fits
