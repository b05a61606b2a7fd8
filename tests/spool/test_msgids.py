"""Message ids: never twice, never one in use."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pysmtpd.base.ids import MSGID_MAX
from pysmtpd.messages import SmtpMessageCommitted, SmtpMsgids, SmtpMsgidsAsk
from pysmtpd.spool.msgids import BLOCKS_MAX, MsgIds
from tests.spool.house import House


def ids_of(used: set[int], mark: int) -> MsgIds:
    def lowest(first: int, last: int) -> int | None:
        return min((msgid for msgid in used if first <= msgid <= last), default=None)

    return MsgIds(mark, lowest)


@given(
    st.sets(st.one_of(st.integers(1, 60), st.integers(MSGID_MAX - 30, MSGID_MAX)), max_size=40),
    st.one_of(st.integers(1, 60), st.integers(MSGID_MAX - 30, MSGID_MAX + 1)),
    st.lists(st.integers(1, 8), max_size=8),
)
def test_no_id_is_given_twice_nor_one_in_use(used: set[int], mark: int, counts: list[int]) -> None:
    msgids = ids_of(used, mark)
    owners = [msgids.owner(), msgids.owner()]
    given_out: list[int] = []
    for n, count in enumerate(counts):
        first, number = msgids.block(owners[n % 2], count)
        assert 1 <= number <= count
        given_out += range(first, first + number)
    assert len(set(given_out)) == len(given_out)
    assert not used & set(given_out)
    assert all(1 <= msgid <= MSGID_MAX for msgid in given_out)


def test_wrap_around_skips_zero_and_what_is_in_use() -> None:
    msgids = ids_of({1, 2, 5}, MSGID_MAX - 1)
    ids = msgids.owner()
    assert [msgids.block(ids, 4) for _ in range(3)] == [(MSGID_MAX - 1, 2), (3, 2), (6, 4)]


def test_each_id_is_good_for_one_message_of_its_owner() -> None:
    msgids = ids_of(set(), 10)
    mine, other = msgids.owner(), msgids.owner()
    msgids.block(mine, 4)
    assert not other.take(10)
    assert mine.take(10)
    assert not mine.take(10)
    assert not mine.take(14)


def test_old_blocks_are_forgotten() -> None:
    msgids = ids_of(set(), 1)
    ids = msgids.owner()
    for _ in range(BLOCKS_MAX + 1):
        msgids.block(ids, 1)
    assert not ids.take(1)
    assert ids.take(2)


def test_restart_goes_on_behind_what_was_given(tmp_path: Path) -> None:
    first = House(tmp_path)
    msgid = first.msgid()
    first.begin(msgid=msgid)
    assert first.expect(first.smtp, SmtpMessageCommitted).ok
    first.kill()
    second = House(tmp_path)
    second.say(second.smtp, SmtpMsgidsAsk())
    assert second.expect(second.smtp, SmtpMsgids).first == msgid + 4096
    second.close()
