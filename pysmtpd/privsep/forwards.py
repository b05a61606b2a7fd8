"""The .forward files that lka asks for, for the parent: judged here, opened by who may hang (privsep.home)."""

import os

from pysmtpd.base.text import line_of
from pysmtpd.conf.config import Config
from pysmtpd.imsg import Message
from pysmtpd.messages import ForwardMissing, ForwardOpen, ForwardOpened, ForwardState, HomeForward
from pysmtpd.privsep import delivery
from pysmtpd.privsep.delivery import NoForward
from pysmtpd.privsep.homes import LIMIT, Homes
from pysmtpd.privsep.mproc import Peer
from pysmtpd.privsep.startup import Identities

WHY_MAX = 1024                     # octets


def open_forward(homes: Homes, config: Config, who: Identities, peer: Peer, ask: ForwardOpen) -> None:
    """peer is lka.  It gets a descriptor, or why there is none."""

    def tell(message: Message | None, fd: int | None) -> None:
        if isinstance(message, ForwardOpened) and fd is not None:
            peer.send(ForwardOpened(ask.reqid), fd)
            return
        if fd is not None:
            os.close(fd)
        if isinstance(message, ForwardMissing):
            peer.send(ForwardMissing(ask.reqid, message.state, message.why))
        else:
            why = f"{ask.home}/.forward: not opened within {LIMIT:g} seconds"
            peer.send(_missing(ask, ForwardState.TEMPORARY, why))

    try:
        user = delivery.judge_forward(config, ask, who)
    except NoForward as failure:
        peer.send(_missing(ask, failure.state, str(failure)))
        return
    homes.ask(HomeForward(ask.reqid, user, ask.uid, ask.home), ask.home, tell)


def _missing(ask: ForwardOpen, state: ForwardState, why: str) -> ForwardMissing:
    return ForwardMissing(ask.reqid, state, line_of(why.encode(), WHY_MAX))
