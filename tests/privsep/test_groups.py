"""Groups of interfaces, from files as Linux has them."""

from pathlib import Path

import pytest

from pysmtpd.privsep import source as source_module
from pysmtpd.privsep.groups import groups
from pysmtpd.privsep.source import SystemSource

ROUTE = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0
"""
ZERO = "0" * 32
ROUTE_6 = f"""fe800000000000000000000000000000 40 {ZERO} 00 {ZERO} 00000100 00000002 00000000 00000001     eth1
{ZERO} 00 {ZERO} 00 fd000000000000000000000000000001 00000400 00000003 00000000 00000003     wlan0
{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200       lo
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "route").write_text(ROUTE)
    (tmp_path / "ipv6_route").write_text(ROUTE_6)
    for name, number in (("eth0", 0), ("eth1", 7), ("eth2", 7), ("wlan0", 8)):
        (tmp_path / "sys" / name).mkdir(parents=True)
        (tmp_path / "sys" / name / "netdev_group").write_text(f"{number}\n")
    (tmp_path / "group").write_text("# device group names\n0\tdefault\n7\tinside # ours\nbroken\n")
    return tmp_path


def test_groups_have_their_interfaces(machine: Path) -> None:
    found = groups(proc=str(machine), sys=str(machine / "sys"), names=(str(machine / "none"), str(machine / "group")))
    assert found == {"inside": ["eth1", "eth2"], "egress": ["eth0", "wlan0"]}


def test_a_system_without_such_files_has_none(tmp_path: Path) -> None:
    assert groups(proc=str(tmp_path), sys=str(tmp_path), names=(str(tmp_path / "group"),)) == {}


def test_what_listens_on_a_group_listens_on_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "getifaddrs", lambda: [("eth0", "192.0.2.1"), ("eth1", "192.0.2.2"),
                                                              ("eth1", "2001:db8::2"), ("inside", "192.0.2.9")])
    monkeypatch.setattr(source_module, "groups", lambda: {"egress": ["eth1", "eth0", "gone"], "inside": ["eth0"],
                                                          "empty": ["gone"]})
    assert SystemSource().interfaces() == {
        "eth0": ["192.0.2.1"], "eth1": ["192.0.2.2", "2001:db8::2"], "inside": ["192.0.2.9"],
        "egress": ["192.0.2.2", "2001:db8::2", "192.0.2.1"]}
