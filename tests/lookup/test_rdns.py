"""lookup.rdns: the name of a client."""

import pytest

from pysmtpd.lookup.rdns import ClientName, client_name
from pysmtpd.lookup.records import Records, Status
from pysmtpd.messages import Fcrdns
from tests.lookup.made import run

TEMPFAIL = Records(Status.TEMPFAIL, text="down")


class Zone:
    """Names of addresses, and addresses of names."""

    def __init__(self, names: Records, addresses: dict[str, Records]) -> None:
        self.names = names
        self.known = addresses

    async def reverse(self, _address: str) -> Records:
        return self.names

    async def addresses(self, name: str) -> Records:
        return self.known.get(name, Records(Status.NXDOMAIN))


def name_of(address: str, names: Records | tuple[str, ...], **addresses: Records | str) -> ClientName:
    known = {name: found if isinstance(found, Records) else Records(Status.FOUND, (found,))
             for name, found in addresses.items()}
    names = names if isinstance(names, Records) else Records(Status.FOUND, names)
    return run(client_name(Zone(names, known), address))  # type: ignore[no-any-return]


def test_a_name_that_leads_back_is_confirmed() -> None:
    assert name_of("192.0.2.1", ("mx",), mx="192.0.2.1") == ("mx", Fcrdns.PASS)
    assert name_of("2001:db8::1", ("mx",), mx="2001:DB8:0::1") == ("mx", Fcrdns.PASS)


def test_a_name_that_leads_elsewhere_is_shown_but_not_confirmed() -> None:
    assert name_of("192.0.2.1", ("mx",), mx="192.0.2.2") == ("mx", Fcrdns.FAIL)
    assert name_of("192.0.2.1", ("mx",)) == ("mx", Fcrdns.FAIL)


def test_of_several_names_the_confirmed_one_counts() -> None:
    assert name_of("192.0.2.1", ("liar", "mx"), liar="192.0.2.2", mx="192.0.2.1") == ("mx", Fcrdns.PASS)
    assert name_of("192.0.2.1", ("a", "b")) == ("a", Fcrdns.FAIL)


@pytest.mark.parametrize("status, fcrdns", [
    (Status.NXDOMAIN, Fcrdns.FAIL), (Status.NODATA, Fcrdns.FAIL), (Status.TEMPFAIL, Fcrdns.ERROR),
])
def test_without_a_name(status: Status, fcrdns: Fcrdns) -> None:
    assert name_of("192.0.2.1", Records(status)) == ("<unknown>", fcrdns)


def test_a_name_whose_addresses_cannot_be_had_now_is_an_error() -> None:
    assert name_of("192.0.2.1", ("mx",), mx=TEMPFAIL) == ("mx", Fcrdns.ERROR)


def test_a_name_that_is_none_is_not_believed() -> None:
    assert name_of("192.0.2.1", ("evil\r\nname", "<unknown>")) == ("<unknown>", Fcrdns.FAIL)
