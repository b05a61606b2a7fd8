"""What a server tells by LIMITS is obeyed (RFC 9422)."""

from pysmtpd.conf.config import Action, Method
from pysmtpd.messages import Outcome
from tests.relay.world import World


def told(limits: bytes, *, pipelining: bool = True) -> World:
    world = World(Action(name="out", method=Method.RELAY, host="<hosts>"))
    world.tables["relayhost", "<hosts>", ""] = ["smtp://192.0.2.5"]
    world.serve("192.0.2.5", {"EHLO": b"250-mx\r\n250-LIMITS " + limits + (b"\r\n250 PIPELINING" if pipelining else
                                                                       b"\r\n250 HELP")})
    return world


def sessions(world: World, verb: str) -> list[list[str]]:
    return [[line for line in server.commands if line.startswith(verb)] for _, server in world.servers]


def test_rcptmax() -> None:
    world = told(b"RCPTMAX=2")
    world.deliver(*(f"{number}@b.example" for number in range(5)))
    world.run()
    assert sorted(len(rcpts) for _, rcpts, _ in world.messages) == [1, 2, 2]
    assert sorted(rcpt for _, rcpts, _ in world.messages for rcpt in rcpts) == [f"{n}@b.example" for n in range(5)]
    assert world.outcomes == [Outcome.OK] * 5


def test_mailmax() -> None:
    for pipelining in (True, False):
        world = told(b"MAILMAX=2", pipelining=pipelining)
        for number in range(1, 10):
            world.deliver("b@b.example", msgid=number)
        world.run()
        assert world.outcomes == [Outcome.OK] * 9
        assert max(len(said) for said in sessions(world, "MAIL")) == 2


def test_rcptdomainmax() -> None:
    for pipelining in (True, False):
        world = told(b"RCPTDOMAINMAX=1", pipelining=pipelining)
        world.deliver("a@a.example", "b@b.example", "c@A.example", "d@c.example")
        world.deliver("e@b.example", "f@a.example", msgid=2)
        world.run()
        assert world.outcomes == [Outcome.OK] * 6
        for said in sessions(world, "RCPT"):
            assert len({line.rpartition("@")[2].lower() for line in said}) <= 1
        assert sorted(rcpt for _, rcpts, _ in world.messages for rcpt in rcpts) == [
            "a@a.example", "b@b.example", "c@A.example", "d@c.example", "e@b.example", "f@a.example"]
        world.advance(3600)
        assert not world.agent.relays
