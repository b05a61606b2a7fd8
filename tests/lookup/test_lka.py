"""lka: the process, with peers in memory and a name server on loopback."""

import asyncio
import math
import subprocess
import sys
import threading
import zlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from pysmtpd import lka as lka_module
from pysmtpd.base.envelope import Agent, Flag
from pysmtpd.base.logline import Level
from pysmtpd.base.mailaddr import NULL, parse
from pysmtpd.base.procs import Proc
from pysmtpd.base.seal import KEY_SIZE, Seal
from pysmtpd.base.struct import replace
from pysmtpd.base.trace import Trace
from pysmtpd.conf import config as conf_config
from pysmtpd.conf.config import Action, Config, Method, Secret, Table
from pysmtpd.imsg import Decoder, Encoder, Message
from pysmtpd.lka import Lka, has_route
from pysmtpd.lookup import mx, resolver
from pysmtpd.lookup.build import build_tables
from pysmtpd.lookup.client_names import NAMES_MAX, ClientNames
from pysmtpd.lookup.expand import Expansion
from pysmtpd.lookup.expanded_frames import frames
from pysmtpd.lookup.explained import Explained
from pysmtpd.lookup.hosts import HostsFile
from pysmtpd.lookup.members import Kind
from pysmtpd.lookup.node import Expanded, Node
from pysmtpd.lookup.table import Service
from pysmtpd.messages import (
    CtlDone,
    CtlExplain,
    CtlText,
    CtlUpdateTable,
    ExpandRcpt,
    Fcrdns,
    ForwardMissing,
    ForwardOpen,
    ForwardState,
    Found,
    Host,
    HostList,
    MtaLookedUp,
    MtaLookup,
    MtaResolve,
    MtaResolved,
    NameLookedUp,
    RcptExpanded,
    SealKey,
    SmtpLookupName,
)
from pysmtpd.privsep.log import Log
from pysmtpd.privsep.passwd import Passwd
from pysmtpd.privsep.process import Birth
from tests.lookup.made import (
    FOR_ANY,
    FOR_LOCAL,
    FROM_ANY,
    FROM_LOCAL,
    Clock,
    criterion,
    envelope,
    rule,
    run,
    table_conf,
)
from tests.support.dns import FakeDns


class Lines(Log):
    """A log that is kept."""

    def __init__(self) -> None:
        super().__init__(stderr=True, verbose=True)
        self.lines: list[str] = []

    def write(self, line: str, level: Level = Level.INFO) -> None:
        self.lines.append(line)


class Asker:
    """A peer: what it is sent goes over the wire in memory."""

    def __init__(self, proc: Proc) -> None:
        self._encode = Encoder(Proc.LKA, proc, 1).encode
        self._feed = Decoder(Proc.LKA, proc).feed
        self.proc = proc
        self.answers: list[Any] = []
        self._news = asyncio.Event()

    def send(self, message: Message) -> None:
        self.answers += [frame.message for frame in self._feed(self._encode(message))]
        self._news.set()

    async def wait(self, count: int = 1) -> list[Any]:
        while len(self.answers) < count:
            self._news.clear()
            await self._news.wait()
        return self.answers


class NoHomes:
    """A parent at which nobody has a .forward."""

    def __init__(self, process: Lka) -> None:
        self._process = process
        self.asked: list[ForwardOpen] = []

    def send(self, message: Message) -> None:
        assert isinstance(message, ForwardOpen)
        self.asked.append(message)
        self._process.forward_missing(cast(Any, self), ForwardMissing(message.reqid, ForwardState.NONE, ""))


CONFIG = Config(
    hostname="mx.example.org",
    tables={table.name: table for table in (
        table_conf("<anyhost>", "local", "0.0.0.0/0", "::/0"), table_conf("<localhost>", "local", "127.0.0.1"),
        table_conf("<anydestination>", "*"), table_conf("<localnames>", "localhost"),
        Table(name="<getpwnam>", backend="getpwnam"),
        table_conf("smart", "smtp://a.example", "smtp://b.example"), table_conf("secrets", label="user:secret"),
    )},
    actions={"local": Action(name="local", method=Method.MBOX), "out": Action(name="out", method=Method.RELAY)},
    rules=(rule(FROM_ANY, FOR_LOCAL, action="local", line=1), rule(FROM_LOCAL, FOR_ANY, action="out", line=2)),
)


@pytest.fixture
def server() -> Iterator[FakeDns]:
    with FakeDns() as running:
        yield running


def lka(config: Config = CONFIG) -> tuple[Lka, Lines]:
    """Set up, not started."""
    log = Lines()
    process = Lka(Birth(proc="lka", uid=0, gid=0, spool="/", socket="/s", stderr=True, verbose=0), log)
    process.preload()
    process._peers[Proc.QUEUE] = [cast(Any, Asker(Proc.QUEUE))]
    process._peers[Proc.PARENT] = [cast(Any, NoHomes(process))]
    process.config = conf_config.decode(conf_config.encode(conf_config.view(config, Proc.LKA)))
    process.setup()
    process.hosts = HostsFile(Clock(), "/nonexistent")
    process.names = ClientNames(process.hosts, Clock())
    process._addresses_due = math.inf
    return process, log


def started(work: Callable[[Lka, Lines], Awaitable[None]]) -> None:
    """Run work with a process whose loop runs and which has no name server."""

    async def all_of_it() -> None:
        process, log = lka()
        process.loop = asyncio.get_running_loop()
        await work(process, log)
        await asyncio.gather(*process.answers.tasks)
        await asyncio.sleep(0)
        assert not process.answers.tasks

    run(all_of_it())


def with_lka(server: FakeDns, work: Callable[[Lka, Lines], Awaitable[None]], config: Config = CONFIG) -> None:
    """Run work with the process started."""

    async def all_of_it() -> None:
        process, log = lka(Config(**{**{name: getattr(config, name) for name in Config.__struct_fields__},
                                     "resolvers": (server.where,)}))
        process.loop = asyncio.get_running_loop()
        process.start()
        await work(process, log)
        await asyncio.gather(*process.answers.tasks)
        await asyncio.sleep(0)
        assert not process.answers.tasks

    run(all_of_it())


def test_recipients_are_expanded_for_smtp_and_for_queue() -> None:
    async def work(process: Lka, _log: Lines) -> None:
        for proc in (Proc.SMTP, Proc.QUEUE):
            await asked_by(process, proc)

    async def asked_by(process: Lka, proc: Proc) -> None:
        peer: Any = Asker(proc)
        process.expand_rcpt(peer, ExpandRcpt(7, envelope("Root+x@localhost"), False, False))
        process.expand_rcpt(peer, ExpandRcpt(8, envelope("bob@far.example"), False, True))
        process.expand_rcpt(peer, ExpandRcpt(9, envelope("bob@far.example"), False, False))
        local, relay, refused = sorted(await peer.wait(3), key=lambda answer: answer.reqid)
        made = envelope("Root+x@localhost", agent=Agent.MDA, action="local", user="root", subaddress="x",
                        ttl=4 * 86400)
        assert local == RcptExpanded(7, process.seal.close([made]), 1, "", "")
        [out] = process.seal.open(relay.sealed)
        assert (out.action, relay.reqid, relay.count) == ("out", 8, 1)
        assert refused == RcptExpanded(9, b"", 0, "550 Invalid recipient", "no rule matched")

    started(work)


def test_a_table_is_read_again_by_a_thread_and_keeps_its_content_when_it_went_wrong(tmp_path: Path) -> None:
    path = tmp_path / "smart"
    path.write_text("# @list\nsmtp://a.example\n")

    async def work(process: Lka, log: Lines) -> None:
        process.tables = build_tables(Config(hostname="x", tables={
            "smart": Table(name="smart", backend="file", path=str(path))}))
        process.reloader.tables = process.tables
        peer: Any = Asker(Proc.CONTROL)

        async def update(name: str) -> Message:
            process.update_table(peer, CtlUpdateTable(1, name))
            await peer.wait(1)
            answer: Message = peer.answers.pop()
            return answer

        path.write_text("# @list\nsmtp://b.example\n")
        assert await update("smart") == CtlDone(1, True, "")
        assert process.tables.fetch("smart", Service.RELAYHOST) == "smtp://b.example"
        path.unlink()
        assert await update("smart") == CtlDone(1, False, f"{path}: No such file or directory")
        assert process.tables.fetch("smart", Service.RELAYHOST) == "smtp://b.example"
        assert await update("none") == CtlDone(1, False, "no such table: none")
        assert log.lines == [
            'info: Table "smart" successfully updated',
            f'info: Failed to update table "smart": {path}: No such file or directory',
            'info: Failed to update table "none": no such table: none',
        ]

    started(work)


def test_a_bounce_to_a_rewritten_sender_goes_to_whom_that_stands_for() -> None:
    """As mail of this machine: no rule lets a stranger relay."""
    async def work() -> None:
        process, log = lka(replace(CONFIG, srs_key=Secret("key"), srs_backup=Secret("old")))
        process.loop = asyncio.get_running_loop()
        mta: Any = Asker(Proc.MTA)
        process.lookup(mta, MtaLookup(1, "srs", "ours.example", "eve@x.example"))
        process.lookup(mta, MtaLookup(2, "srs", "ours.example", "eve"))
        [first, second] = mta.answers
        assert first.found is Found.YES and first.value.startswith("SRS0=")
        assert second == MtaLookedUp(2, Found.NO, "eve")
        smtp: Any = Asker(Proc.SMTP)
        ask = replace(envelope(first.value), sender=NULL, source="203.0.113.9")
        process.expand_rcpt(smtp, ExpandRcpt(1, ask, False, False))
        process.expand_rcpt(smtp, ExpandRcpt(2, replace(ask, sender=parse("a@b.example")), False, False))
        forged = replace(ask, dest=parse("SRS0=abcd=AA=x=y@ours.example"))
        process.expand_rcpt(smtp, ExpandRcpt(3, forged, False, False))
        taken, *refused = await smtp.wait(3)
        [made] = process.seal.open(taken.sealed)
        assert (str(made.rcpt), str(made.dest), made.action) == (first.value, "eve@x.example", "out")
        assert made.flags & Flag.INTERNAL
        assert [answer.reply for answer in refused] == ["550 Invalid recipient"] * 2
        assert log.lines == ["SRS failed to decode: SRS0=abcd=AA=x=y@ours.example"]

    run(work())


def test_queue_gets_the_key_of_the_seals_at_the_start(server: FakeDns) -> None:
    async def look(process: Lka, _log: Lines) -> None:
        queue: Any = process.peer(Proc.QUEUE)
        [told] = queue.answers
        assert isinstance(told, SealKey) and len(told.key) == KEY_SIZE
        assert Seal(told.key).open(process.seal.close([envelope("a@b.example")])) == [envelope("a@b.example")]
        assert str(told) == repr(told) == "SealKey(...)"

    with_lka(server, look)


def test_many_envelopes_take_as_many_frames_as_needed() -> None:
    made = [envelope(f"user{number}@example.org", helo="h" * 200, errorline="e" * 900) for number in range(100)]
    expanded = Expanded(made, "", "", Node(Kind.ADDRESS, "", made[0].dest, None))
    peer = Asker(Proc.SMTP)
    seal = Seal(b"k" * KEY_SIZE)
    for frame in frames(5, 3 << 32 | 7, expanded, seal):
        peer.send(frame)
    assert len(peer.answers) > 5
    assert [answer.more for answer in peer.answers] == [True] * (len(peer.answers) - 1) + [False]
    opened = [each for answer in peer.answers for each in seal.open(answer.sealed)]
    assert [each.evpid for each in opened] == [3 << 32 | number for number in range(7, 107)]
    assert [replace(each, evpid=0) for each in opened] == made
    assert sum(answer.count for answer in peer.answers) == 100


def test_an_envelope_that_fits_into_no_frame_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    process, log = lka()
    face = "\N{GRINNING FACE}"
    texts = dict.fromkeys(("helo", "hostname", "username", "tag", "smtpname", "source"), face * 255)
    wide = envelope("root@localhost", errorline=face * 1020, command=face * 1020, **texts)
    expanded = Expanded([wide], "", "", Node(Kind.ADDRESS, "", wide.dest, None))
    monkeypatch.setattr(Expansion, "run", lambda _self, _memo: expanded)
    peer: Any = Asker(Proc.SMTP)
    process.expand_rcpt(peer, ExpandRcpt(7, envelope("root@localhost"), False, False))
    assert peer.answers == [RcptExpanded(7, b"", 0, "451 Temporary failure", "internal error")]
    assert log.lines == ["bug: lka: expansion of <root@localhost>: RcptExpanded: Expected `bytes` of length <= 14336 "
                         "- at `$[1]`"]


def test_traces_are_told_as_soon_as_they_are_wanted() -> None:
    async def work(process: Lka, log: Lines) -> None:
        peer: Any = Asker(Proc.SMTP)
        ask = ExpandRcpt(7, envelope("no-such-user@localhost"), False, False)
        process.expand_rcpt(peer, ask)
        await peer.wait(1)
        assert log.lines == []
        process.traces = Trace.RULES | Trace.EXPAND | Trace.LOOKUP
        process.expand_rcpt(peer, ask)
        await peer.wait(2)
        assert 'rules: rule #1 matched: smtpd.conf:1:1: action "local"' in log.lines
        assert "expand:     refused: no user no-such-user in <getpwnam>" in log.lines
        assert 'lookup: match "localhost" as domain in table static:<localnames> -> true' in log.lines
        assert 'lookup: lookup "no-such-user" as userinfo in table getpwnam:<getpwnam> -> none' in log.lines
        process.traces = 0
        log.lines.clear()
        process.expand_rcpt(peer, ask)
        await peer.wait(3)
        assert log.lines == []

    started(work)


def test_a_table_file_that_cannot_be_read_stops_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fatal(_self: Lka, text: str) -> None:
        raise SystemExit(text)

    monkeypatch.setattr(Lka, "fatal", fatal)
    table = Table(name="aliases", backend="file", path=str(tmp_path / "aliases"))
    with pytest.raises(SystemExit, match=r"^table aliases: .*/aliases: No such file or directory$"):
        lka(Config(hostname="x", tables={"aliases": table}))


def test_a_pattern_that_matches_nothing_is_warned_of() -> None:
    _, log = lka(Config(hostname="x", tables={"t": table_conf("t", "(bad")},
                        rules=(rule(criterion("helo", "t", regex=True)),)))
    assert log.lines and log.lines[0].startswith("warn: table t: (bad: ")


def test_the_name_of_a_client_is_found_confirmed_and_kept(server: FakeDns) -> None:
    server.add("7.2.0.192.in-addr.arpa", "PTR", "mx.example.com.")
    server.add("mx.example.com", "A", "192.0.2.7")

    async def work(process: Lka, _log: Lines) -> None:
        peer: Any = Asker(Proc.SMTP)
        process.lookup_name(peer, SmtpLookupName(1, "192.0.2.7"))
        assert await peer.wait(1) == [NameLookedUp(1, "mx.example.com", Fcrdns.PASS)]
        server.remove("mx.example.com", "A")
        process.lookup_name(peer, SmtpLookupName(2, "192.0.2.7"))
        assert peer.answers[1:] == [NameLookedUp(2, "mx.example.com", Fcrdns.PASS)]
        process.lookup_name(peer, SmtpLookupName(3, "192.0.2.8"))
        assert (await peer.wait(3))[2] == NameLookedUp(3, "<unknown>", Fcrdns.FAIL)
        process.lookup_name(peer, SmtpLookupName(4, "no address"))
        assert peer.answers[3] == NameLookedUp(4, "<unknown>", Fcrdns.ERROR)
        assert NAMES_MAX >= len(process.names) == 2

    with_lka(server, work)


def test_a_failed_name_is_asked_for_again(server: FakeDns) -> None:
    server.fail("7.2.0.192.in-addr.arpa", "PTR", "SERVFAIL")

    async def work(process: Lka, _log: Lines) -> None:
        peer: Any = Asker(Proc.SMTP)
        process.lookup_name(peer, SmtpLookupName(1, "192.0.2.7"))
        assert await peer.wait() == [NameLookedUp(1, "<unknown>", Fcrdns.ERROR)]
        assert not process.names

    with_lka(server, work)


def test_other_questions_are_answered_while_a_name_server_is_silent(server: FakeDns,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "QUERY_TIMEOUT", 0.2)
    monkeypatch.setattr(resolver, "TOTAL_TIMEOUT", 0.3)
    server.fail("slow.example", "MX", "TIMEOUT")
    server.add("fast.example", "A", "192.0.2.1")

    async def work(process: Lka, _log: Lines) -> None:
        peer: Any = Asker(Proc.MTA)
        process.resolve(peer, MtaResolve(1, "slow.example", True))
        process.resolve(peer, MtaResolve(2, "fast.example", True))
        slow = MtaResolved(1, HostList.TEMPFAIL, [], "Temporary failure in MX lookup", "4.4.3")
        fast = MtaResolved(2, HostList.OK, [Host(0, "fast.example", "192.0.2.1")], "", "")
        assert await peer.wait(2) == [fast, slow]

    with_lka(server, work)


def test_hosts_of_a_domain_and_of_a_smarthost(server: FakeDns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lka_module, "has_route", lambda _address: True)
    server.add("example.com", "MX", "10 mx.example.com.", "20 mx2.example.com.")
    server.add("mx.example.com", "A", "192.0.2.1")
    server.add("mx.example.com", "AAAA", "2001:db8::1")
    server.add("null.example", "MX", "0 .")

    async def work(process: Lka, _log: Lines) -> None:
        peer: Any = Asker(Proc.MTA)
        process.resolve(peer, MtaResolve(1, "example.com", True))
        (answer,) = await peer.wait(1)
        assert answer.status is HostList.OK
        assert {(host.preference, host.name, host.address) for host in answer.hosts} == {
            (10, "mx.example.com", "192.0.2.1"), (10, "mx.example.com", "2001:db8::1")}
        process.resolve(peer, MtaResolve(2, "null.example", True))
        assert (await peer.wait(2))[1].esc == "5.1.10"
        process.resolve(peer, MtaResolve(3, "mx2.example.com", False))
        assert (await peer.wait(3))[2].text == "Host not found"

    with_lka(server, work)


def test_addresses_without_a_way_to_them_are_left_out_unless_all_are(server: FakeDns,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    server.add("both.example", "A", "192.0.2.1")
    server.add("both.example", "AAAA", "2001:db8::1")
    server.add("six.example", "AAAA", "2001:db8::1")
    monkeypatch.setattr(lka_module, "has_route", lambda address: ":" not in address)

    async def work(process: Lka, _log: Lines) -> None:
        peer: Any = Asker(Proc.MTA)
        process.resolve(peer, MtaResolve(1, "both.example", True))
        assert [host.address for host in (await peer.wait(1))[0].hosts] == ["192.0.2.1"]
        process.resolve(peer, MtaResolve(2, "six.example", True))
        assert [host.address for host in (await peer.wait(2))[1].hosts] == ["2001:db8::1"]

    with_lka(server, work)


def test_there_is_a_way_to_this_machine() -> None:
    assert has_route("127.0.0.1")


def test_look_ups_of_mta(server: FakeDns) -> None:
    server.add("1.2.0.192.in-addr.arpa", "PTR", "mx.example.com.")

    async def work(process: Lka, log: Lines) -> None:
        peer: Any = Asker(Proc.MTA)

        def ask(reqid: int, service: str, table: str, key: str) -> None:
            process.lookup(peer, MtaLookup(reqid, service, table, key))

        ask(1, "relayhost", "smart", "")
        ask(2, "relayhost", "smart", "")
        ask(3, "credentials", "secrets", "label")
        ask(4, "credentials", "secrets", "other")
        assert log.lines == []
        ask(5, "source", "gone", "")
        ask(6, "magic", "smart", "")
        assert peer.answers == [
            MtaLookedUp(1, Found.YES, "smtp://a.example"), MtaLookedUp(2, Found.YES, "smtp://b.example"),
            MtaLookedUp(3, Found.YES, "AHVzZXIAc2VjcmV0"), MtaLookedUp(4, Found.NO, ""),
            MtaLookedUp(5, Found.TEMPFAIL, ""), MtaLookedUp(6, Found.TEMPFAIL, "")]
        assert log.lines == ["warn: lka: no such table: gone", "warn: lka: no such service: magic"]
        ask(7, "ptr", "", "192.0.2.1")
        ask(8, "ptr", "", "192.0.2.2")
        ask(9, "ptr", "", "nonsense")
        assert sorted((await peer.wait(9))[6:], key=lambda answer: answer.reqid) == [
            MtaLookedUp(7, Found.YES, "mx.example.com"), MtaLookedUp(8, Found.NO, ""), MtaLookedUp(9, Found.NO, "")]

    with_lka(server, work)


def test_a_bug_in_a_look_up_is_logged_and_fails_that_one_for_now(server: FakeDns,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_arguments: object) -> mx.Resolved:
        raise ZeroDivisionError

    monkeypatch.setattr(mx, "resolve_domain", broken)

    async def work(process: Lka, log: Lines) -> None:
        peer: Any = Asker(Proc.MTA)
        process.resolve(peer, MtaResolve(1, "example.com", True))
        (answer,) = await peer.wait()
        assert answer.status is HostList.TEMPFAIL
        assert len(log.lines) == 1 and "ZeroDivisionError" in log.lines[0] and "\n" not in log.lines[0]

    with_lka(server, work)


def test_an_answer_the_receiver_would_refuse_becomes_a_failure_for_now(server: FakeDns,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(*_arguments: object) -> mx.Resolved:
        return mx.Resolved(HostList.OK, [Host(0, "x" * 300, "192.0.2.1")])

    monkeypatch.setattr(mx, "resolve_domain", endless)

    async def work(process: Lka, log: Lines) -> None:
        peer: Any = Asker(Proc.MTA)
        process.resolve(peer, MtaResolve(1, "example.com", True))
        assert (await peer.wait())[0].status is HostList.TEMPFAIL
        assert log.lines[0].startswith("bug: lka: MtaResolved")

    with_lka(server, work)


_IN_A_PROCESS_OF_ITS_OWN = """
import asyncio, random, sys, time
from pysmtpd.lka import Lka
from pysmtpd.lookup import mx, rdns, resolver
from pysmtpd.lookup.expand import Expansion
from pysmtpd.lookup.hosts import HostsFile
from pysmtpd.lookup.members import Kind
from pysmtpd.lookup.node import Expanded, Node

async def work(asking, names):
    return [(await mx.resolve_domain(asking, name, random.shuffle)).status.name for name in names] + [
        (await rdns.client_name(asking, "192.0.2.1")).fcrdns.name]

resolver.preload()
"".encode("idna")
loop = asyncio.SelectorEventLoop()
asyncio.set_event_loop(loop)
before = set(sys.modules)
servers = resolver.NameServers([sys.argv[1]], time.monotonic)
asking = resolver.Resolver(servers, HostsFile(time.monotonic, "/nonexistent"))
print(*loop.run_until_complete(work(asking, sys.argv[2:])))
print(*sorted(set(sys.modules) - before))
"""


def test_nothing_is_imported_once_it_runs(server: FakeDns) -> None:
    server.add("example.com", "MX", "10 mx.example.com.")
    server.add("mx.example.com", "A", "192.0.2.1")
    server.add("mx.example.com", "AAAA", "2001:db8::1")
    server.add("1.2.0.192.in-addr.arpa", "PTR", "mx.example.com.")
    server.fail("tcp.example", "MX", "TRUNCATED")
    server.add("tcp.example", "MX", "10 mx.example.com.")
    server.fail("bad.example", "MX", "SERVFAIL")
    names = ("example.com", "tcp.example", "bad.example", "none.example", "b\u00fccher.example", "a..b")
    ended = subprocess.run([sys.executable, "-I", "-c", _IN_A_PROCESS_OF_ITS_OWN, server.where, *names],
                           capture_output=True, text=True, timeout=30, check=False)
    assert ended.stderr == ""
    answers, imported = ended.stdout.splitlines()
    assert answers == "OK OK TEMPFAIL PERMFAIL PERMFAIL PERMFAIL PASS"
    assert imported == ""


def test_an_explanation_is_the_expansion_of_a_session(server: FakeDns) -> None:
    async def work(process: Lka, log: Lines) -> None:
        peer: Any = Asker(Proc.CONTROL)
        process.explain(peer, CtlExplain(1, "a@b.example", "root@localhost", "192.0.2.1", "b.test", "", "", False, ""))
        process.explain(peer, CtlExplain(2, "", "x@far.example", "192.0.2.1", "", "", "", False, ""))
        process.explain(peer, CtlExplain(3, "", "a b@c", "local", "", "", "", False, ""))
        answers = {answer.reqid: answer for answer in await peer.wait(3)}
        told = {reqid: msgspec.json.decode(zlib.decompress(answer.chunk), type=Explained)
                for reqid, answer in answers.items() if isinstance(answer, CtlText)}
        assert told[1].tree.children[0].delivery is not None and told[1].tree.children[0].delivery.user == "root"
        assert told[2].reply == "550 Invalid recipient: <x@far.example>" and told[2].client == "192.0.2.1 (<unknown>)"
        assert answers[3] == CtlDone(3, False, "no client can give the address <a b@c>")
        assert log.lines == []

    with_lka(server, work)


def test_local_is_what_the_machines_addresses_are_now(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(peer: Any, process: Lka) -> str:
        process.expand_rcpt(peer, ExpandRcpt(7, envelope("bob@far.example", source="[2001:db8::7]"), False, False))
        return str(peer.answers[-1].reply)

    addresses = [("lo", "127.0.0.1")]
    monkeypatch.setattr(lka_module, "getifaddrs", lambda: addresses)
    process, log = lka()
    peer: Any = Asker(Proc.SMTP)
    assert asked(peer, process) == "550 Invalid recipient"
    addresses.append(("eth0", "2001:db8::7"))
    assert asked(peer, process) == "550 Invalid recipient"
    log.lines.clear()
    process._addresses_due = 0.0
    assert asked(peer, process) == ""
    assert "info: lka: <localhost> is now local 127.0.0.1 [2001:db8::7]" in log.lines
    addresses.clear()
    process._addresses_due = 0.0
    assert asked(peer, process) == "550 Invalid recipient"


def test_what_waits_keeps_nobody_else_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def slow(_self: Passwd, name: str) -> None:
        answered.wait(20)

    monkeypatch.setattr(Passwd, "find", slow)

    async def work(process: Lka, _log: Lines) -> None:
        waiting: Any = Asker(Proc.SMTP)
        for number in range(1000):
            process.expand_rcpt(waiting, ExpandRcpt(number, envelope(f"u{number}@localhost"), False, False))
        await asyncio.sleep(0.05)
        others: Any = Asker(Proc.SMTP)
        process.expand_rcpt(others, ExpandRcpt(5000, envelope("bob@far.example"), False, True))
        assert [answer.reqid for answer in others.answers] == [5000] and waiting.answers == []
        relay: Any = Asker(Proc.MTA)
        process.lookup(relay, MtaLookup(5001, "credentials", "secrets", "label"))
        assert [answer.reqid for answer in relay.answers] == [5001]
        answered.set()
        answers = await waiting.wait(1000)
        assert {answer.reply for answer in answers} == {"550 Invalid recipient"}
        assert {answer.reqid for answer in answers} == set(range(1000))

    started(work)
