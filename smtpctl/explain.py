"""``smtpctl explain``: what the daemon would say to a recipient, and why; or what a configuration would."""

import argparse
import asyncio
import os
import random
import sys
import time
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysmtpd.conf.config import Config, Expectation
    from pysmtpd.lookup.expand import Expander
    from pysmtpd.lookup.explained import Explained
    from pysmtpd.lookup.forward import Forwards, User
    from smtpctl.client import Control
    from smtpctl.table_programs import TablePrograms

ANSWER_MAX = 16 * 1024 * 1024      # octets, uncompressed
TIMEOUT = 60.0                     # seconds without the daemon
EX_USAGE = 64


class Wrong(Exception):
    """It cannot be explained: why."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="smtpctl explain", allow_abbrev=False,
                                   description="Why is this recipient accepted, or refused, and where does it go?")
    made.add_argument("--from", dest="sender", default="", metavar="ADDRESS", help="the sender; default: the null one")
    made.add_argument("--rcpt", required=True, metavar="ADDRESS", help="the recipient")
    made.add_argument("--src", default="local", metavar="IP", help="the client's address; default: this machine")
    made.add_argument("--rdns", default="", metavar="NAME", help="the client's name; default: what the DNS says")
    made.add_argument("--helo", default="", metavar="NAME", help="what it says in HELO")
    made.add_argument("--auth", default="", metavar="USER", help="as whom it authenticated")
    made.add_argument("--tls", action="store_true", help="it speaks TLS")
    made.add_argument("--tag", default="", help="the tag of the listener")
    made.add_argument("-f", dest="file", metavar="FILE", help="ask this configuration, not the daemon")
    made.add_argument("-j", dest="json", action="store_true", help="as JSON")
    return made


def main(connect: "Callable[[], Control]", arguments: list[str]) -> int:
    """Print it.  0 for a recipient that is accepted, 1 for one that is refused."""
    asked = parser().parse_args(arguments)
    try:
        explained = offline(asked) if asked.file is not None else live(connect, asked)
    except Wrong as error:
        print(f"smtpctl: {error}", file=sys.stderr)
        return EX_USAGE
    show(explained, as_json=asked.json)
    return 0 if explained.accepted else 1


def show(explained: "Explained", *, as_json: bool) -> None:
    """To standard output."""
    from pysmtpd.lookup import explained as told

    if as_json:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(explained)).decode())
        return
    for line in told.lines(explained):
        print(line)


def live(connect: "Callable[[], Control]", asked: argparse.Namespace) -> "Explained":
    """Ask the daemon."""
    import msgspec

    from pysmtpd.imsg import ImsgError
    from pysmtpd.lookup.explained import Explained
    from pysmtpd.messages import CtlExplain, CtlText

    try:
        answer = connect().ask(CtlExplain(1, asked.sender, asked.rcpt, asked.src, asked.rdns, asked.helo, asked.auth,
                                          asked.tls, asked.tag))
    except ImsgError as error:
        raise Wrong(str(error)) from None
    if not isinstance(answer, CtlText):
        raise Wrong("bad message type")
    return msgspec.json.decode(zlib.decompressobj().decompress(answer.chunk, ANSWER_MAX), type=Explained)


def offline(asked: argparse.Namespace) -> "Explained":
    """Evaluate a configuration here, as who calls."""
    from pysmtpd.conf.config import Expectation
    from pysmtpd.readconf import Job, read

    config = read(Job(path=asked.file))
    if config is None:
        raise Wrong(f"{asked.file} has errors")
    client = Expectation(sender=asked.sender, rcpt=asked.rcpt, verdict="", source=asked.src, rdns=asked.rdns,
                         helo=asked.helo, username=asked.auth, tls=asked.tls, tag=asked.tag)
    return asyncio.run(_explain(config, client))


async def _explain(config: "Config", client: "Expectation") -> "Explained":
    from pysmtpd.lookup.explain import Explainer, Unexplained
    from pysmtpd.lookup.hosts import HostsFile
    from pysmtpd.lookup.resolver import NameServers, Resolver, preload
    from smtpctl.table_programs import TablePrograms

    preload()
    resolver = Resolver(NameServers(config.resolvers, time.monotonic), HostsFile(time.monotonic))
    programs = TablePrograms(config)
    try:
        async with asyncio.timeout(TIMEOUT):
            return await Explainer(config, expander(config, programs), resolver, random.shuffle).explain(client)
    except Unexplained as error:
        raise Wrong(str(error)) from None
    except TimeoutError:
        raise Wrong(f"look-ups took more than {TIMEOUT:g} seconds") from None
    finally:
        programs.end()


def expander(config: "Config", programs: "TablePrograms") -> "Expander":
    """The daemon's, with files read by us."""
    from concurrent.futures import ThreadPoolExecutor

    from pysmtpd.lookup import rewritten
    from pysmtpd.lookup.build import Means, build_tables
    from pysmtpd.lookup.expand import Expander
    from pysmtpd.lookup.forward import Forwards, Includes, User
    from pysmtpd.lookup.ruleset import Ruleset

    tables = build_tables(config, Means(keeper=programs), strict=False)
    programs.begin(tables)

    def ask(number: int, user: User) -> None:
        _open(forwards, number, user)

    forwards = Forwards(ask, time.monotonic)
    made = Expander(config, Ruleset(config.rules, tables), tables, forwards, Includes(ThreadPoolExecutor(4)),
                    only_uid=os.geteuid() if config.user else None)
    # As lka does: a bounce to a rewritten sender is for whom it stands for.
    if (scheme := rewritten.of(config, lambda: int(time.time()), _tell)) is not None:
        made.reverse = scheme.reverse
    return made


def _tell(text: str) -> None:
    print(f"smtpctl: {text}", file=sys.stderr)


def _open(forwards: "Forwards", number: int, user: "User") -> None:
    """As the parent does, but with the rights of who calls."""
    from pysmtpd.lookup.forward import STATES, Forward
    from pysmtpd.privsep.delivery import NoForward, open_forward

    try:
        forwards.opened(number, open_forward(user.home, user.uid))
    except NoForward as failure:
        forwards.missing(number, Forward(STATES[failure.state], b"", str(failure)))
