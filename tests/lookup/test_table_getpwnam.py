"""lookup.table_getpwnam: users of the system."""

import errno
import os
import pwd

import pytest

from pysmtpd.lookup.table import Service, TableError, Tables
from pysmtpd.lookup.table_getpwnam import CACHE_MAX, KEPT, GetpwnamTable
from pysmtpd.lookup.table_slow import Question
from pysmtpd.privsep import passwd
from pysmtpd.privsep.passwd import Passwd
from tests.lookup.made import Clock, run, settled

BOB = pwd.struct_passwd(("bob", "x", 1000, 1000, "", "/home/bob", "/bin/sh"))


class Users:
    """A user database that counts, and may be down."""

    def __init__(self) -> None:
        self.known = {"bob": BOB}
        self.asked: list[str] = []
        self.down = False

    def __call__(self, name: str) -> pwd.struct_passwd | None:
        self.asked.append(name)
        if self.down:
            raise OSError(errno.EIO, "Input/output error")
        return self.known.get(name)


class Sync:
    """The table, waited for."""

    def __init__(self, made: GetpwnamTable) -> None:
        self.made = made
        self._tables = Tables([made])

    def lookup(self, service: Service, key: str) -> str | None:
        return settled(lambda memo: self._tables.lookup("<getpwnam>", service, key, memo))

    def match(self, service: Service, key: str) -> bool:
        return settled(lambda memo: self._tables.match("<getpwnam>", service, key, memo))


def table(users: Users, clock: Clock) -> Sync:
    return Sync(GetpwnamTable("<getpwnam>", users, clock))


def test_a_user_is_uid_gid_and_home() -> None:
    users = table(Users(), Clock())
    assert users.lookup(Service.USERINFO, "bob") == "1000:1000:/home/bob"
    assert users.lookup(Service.USERINFO, "rob") is None
    assert users.match(Service.USERINFO, "bob")


def test_an_answer_serves_for_a_few_seconds() -> None:
    users, clock = Users(), Clock()
    answers = table(users, clock)
    for _ in range(3):
        answers.lookup(Service.USERINFO, "bob")
        answers.lookup(Service.USERINFO, "rob")
    assert users.asked == ["bob", "rob"]
    users.known["rob"] = BOB
    clock.now += KEPT
    assert answers.lookup(Service.USERINFO, "rob") is not None


def test_what_is_kept_is_bounded() -> None:
    users, clock = Users(), Clock()
    answers = table(users, clock)

    async def ask_many() -> None:
        for number in range(CACHE_MAX + 10):
            await answers.made.ask(Question("lookup", Service.USERINFO, f"u{number}"))

    run(ask_many())
    assert len(answers.made._kept) == CACHE_MAX
    users.asked.clear()
    answers.lookup(Service.USERINFO, f"u{CACHE_MAX + 9}")
    answers.lookup(Service.USERINFO, "u0")
    assert users.asked == ["u0"]


def test_a_database_that_is_down_fails_for_now_and_is_asked_again() -> None:
    users = Users()
    answers = table(users, Clock())
    users.down = True
    with pytest.raises(TableError, match="Input/output error"):
        answers.lookup(Service.USERINFO, "bob")
    users.down = False
    assert answers.lookup(Service.USERINFO, "bob") is not None


def test_names_nobody_can_have_are_not_asked_for() -> None:
    users = Users()
    answers = table(users, Clock())
    assert answers.lookup(Service.USERINFO, "") is None
    assert answers.lookup(Service.USERINFO, "x" * 256) is None
    assert users.asked == []


def test_it_has_nothing_else() -> None:
    with pytest.raises(TableError, match="has no alias"):
        table(Users(), Clock()).lookup(Service.ALIAS, "bob")


def test_the_system_knows_who_we_are_and_not_a_stranger() -> None:
    me = pwd.getpwuid(os.getuid())
    assert Passwd().find(me.pw_name) == me
    assert Passwd().find("no-such-user-here") is None


def test_the_system_may_be_unable_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Passwd()
    monkeypatch.setattr(asked, "_ask", lambda _name: errno.ECONNREFUSED)
    with pytest.raises(ConnectionRefusedError):
        asked.find("no-such-user-here")
    assert errno.ENOENT not in passwd._FAILURES
