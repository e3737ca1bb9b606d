import ipaddress
import shutil
import socket
import subprocess
from ipaddress import ip_address

import pytest

from wyoming_rknn.server import addresses
from wyoming_rknn.server.addresses import Interface, Sender, is_usable, literal, reachable, resolve, senders


def interface(index: int, *texts: str, lan: bool = True) -> Interface:
    return Interface(f"if{index}", index, tuple(ip_address(text) for text in texts), lan)


def texts(found: tuple[addresses.Address, ...]) -> list[str]:
    return [str(address) for address in found]


LAN = interface(2, "fd00::5", "192.168.1.5")
WIFI = interface(3, "192.168.1.6")
DOCKER = interface(4, "172.17.0.1", lan=False)


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        ("192.168.1.5", True),
        ("203.0.113.9", True),
        ("100.64.3.2", True),
        ("fd12::1", True),
        ("2001:db8::1", True),
        ("0.0.0.0", False),
        ("127.0.0.1", False),
        ("169.254.3.4", False),
        ("224.0.0.251", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("fe80::1%2", False),
    ],
)
def test_usable_addresses(text: str, usable: bool) -> None:
    assert is_usable(ip_address(text)) is usable


@pytest.mark.parametrize(
    ("host", "expected"),
    [("0.0.0.0", ["0.0.0.0"]), ("::", ["::"]), ("", ["::"]), ("*", ["::"]), ("10.1.2.3", ["10.1.2.3"])],
)
def test_bind_hosts_that_need_no_lookup(host: str, expected: list[str]) -> None:
    found = literal(host)
    assert found is not None and texts(found) == expected


def test_a_name_is_looked_up() -> None:
    assert literal("localhost") is None
    assert all(address.is_loopback for address in resolve("localhost"))


def test_an_ipv4_wildcard_means_all_ipv4_addresses() -> None:
    assert texts(reachable([ip_address("0.0.0.0")], [LAN, WIFI])) == ["192.168.1.5", "192.168.1.6"]


def test_a_dual_stack_wildcard_means_both_families_ipv4_first() -> None:
    assert texts(reachable([ip_address("::")], [LAN, WIFI])) == ["192.168.1.5", "192.168.1.6", "fd00::5"]


def test_internal_networks_only_where_there_is_no_other() -> None:
    assert texts(reachable([ip_address("0.0.0.0")], [LAN, DOCKER])) == ["192.168.1.5"]
    assert texts(reachable([ip_address("0.0.0.0")], [DOCKER])) == ["172.17.0.1"]


def test_an_address_stands_for_itself_and_only_while_it_is_there() -> None:
    assert texts(reachable([ip_address("192.168.1.6")], [LAN, WIFI])) == ["192.168.1.6"]
    assert texts(reachable([ip_address("172.17.0.1")], [LAN, DOCKER])) == ["172.17.0.1"]
    assert reachable([ip_address("192.168.1.6")], [LAN]) == ()
    assert reachable([ip_address("127.0.0.1")], [LAN]) == ()
    assert reachable([], [LAN]) == ()


def test_one_sender_per_interface_and_family() -> None:
    crowded = interface(5, "10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2")
    announced = [*crowded.addresses, *WIFI.addresses]
    assert senders(announced, [WIFI, crowded, DOCKER]) == (
        Sender(ip_address("192.168.1.6"), 3),
        Sender(ip_address("10.0.0.1"), 5),
        Sender(ip_address("fd00::1"), 5),
    )


def test_interfaces_of_this_machine_agree_with_ip() -> None:
    if shutil.which("ip") is None:
        pytest.skip("the program ip is needed to compare with")
    listed = subprocess.run(["ip", "-o", "address"], check=True, capture_output=True, text=True).stdout
    for found in addresses.interfaces():
        assert socket.if_indextoname(found.index) == found.name
        for address in found.addresses:
            assert is_usable(address)
            assert any(f" {address}/" in line and found.name in line for line in listed.splitlines())


@pytest.mark.parametrize(
    ("name", "internal"),
    [
        ("docker0", True),
        ("hassio", True),
        ("br-0123456789ab", True),
        ("veth9f2a", True),
        ("virbr0", True),
        ("tun0", True),
        ("tailscale0", False),  # told by being point-to-point
        ("br-lan", False),
        ("br0", False),
        ("eth0", False),
        ("end1", False),
        ("wlan0", False),
    ],
)
def test_internal_interfaces_by_name(name: str, internal: bool) -> None:
    assert bool(addresses._INTERNAL.match(name)) is internal


def test_fleeting_ipv6_addresses(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "if_inet6"  # type: ignore[operator]
    table.write_text(
        "fd770000000000000000000000000001 03 40 00 80     lan0\n"
        "fd770000000000000000000000000002 03 40 00 c0     lan0\n"
        "fd770000000000000000000000000003 03 40 00 01     lan0\n"
        "fd770000000000000000000000000004 03 40 00 20     lan0\n"
    )
    monkeypatch.setattr(addresses, "_IPV6_ADDRESSES", table)
    expected = {ipaddress.IPv6Address(f"fd77::{last}") for last in (2, 3, 4)}
    assert addresses._fleeting_ipv6() == expected
    monkeypatch.setattr(addresses, "_IPV6_ADDRESSES", tmp_path / "none")  # type: ignore[operator]
    assert addresses._fleeting_ipv6() == set()
