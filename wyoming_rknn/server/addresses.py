"""Which of the machine's addresses other machines can reach a listener at."""

import fcntl
import ipaddress
import re
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

MDNS_PORT = 5353
MDNS_GROUP_V4 = "224.0.0.251"
MDNS_GROUP_V6 = "ff02::fb"
"""RFC 6762, section 3."""

_IPV6_ADDRESSES = Path("/proc/net/if_inet6")
_SIOCGIFFLAGS = 0x8913
_IFF_LOOPBACK, _IFF_POINTOPOINT, _IFF_RUNNING, _IFF_MULTICAST = 0x8, 0x10, 0x40, 0x1000
_IFA_F_TEMPORARY, _IFA_F_DADFAILED, _IFA_F_DEPRECATED, _IFA_F_TENTATIVE = 0x01, 0x08, 0x20, 0x40
# Networks inside the machine. Docker's own bridges are br- and 12 hex digits; "br-lan" is a router's real LAN.
_INTERNAL = re.compile(
    r"docker|hassio|veth|virbr|vnet|lxcbr|lxdbr|podman|cni|flannel|cali|tap|tun|br-[0-9a-f]{12}$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface that is up, with the addresses others can use."""

    name: str
    index: int
    addresses: tuple[Address, ...]
    lan: bool
    """Other machines are on it: no container bridge, tunnel or interface without multicast."""


@dataclass(frozen=True, slots=True)
class Sender:
    """An address to multicast from, on the interface that has it."""

    address: Address
    index: int


def interfaces() -> tuple[Interface, ...]:
    """Return the interfaces with usable addresses, ordered by index; raises `OSError`.

    Takes well under a millisecond once `ifaddr` is loaded. Interfaces without carrier are left out: nobody is there,
    and an address that comes back is announced anew, which a peer behind the same switch may need.
    """
    import ifaddr

    fleeting = _fleeting_ipv6()
    found: dict[str, list[Address]] = {}
    for adapter in ifaddr.get_adapters():
        # An address label such as "eth0:1" belongs to eth0.
        addresses = found.setdefault(adapter.name.partition(":")[0], [])
        for ip in adapter.ips:
            address = ipaddress.ip_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0].partition("%")[0])
            if is_usable(address) and address not in fleeting:
                addresses.append(address)
    result = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
        for name, addresses in found.items():
            try:
                flags, index = _flags(query, name), socket.if_nametoindex(name)
            except OSError:  # it went away meanwhile
                continue
            if addresses and flags & _IFF_RUNNING and not flags & _IFF_LOOPBACK:
                outward = flags & _IFF_MULTICAST and not flags & _IFF_POINTOPOINT
                result.append(Interface(name, index, tuple(addresses), bool(outward and not _INTERNAL.match(name))))
    return tuple(sorted(result, key=lambda interface: interface.index))


def is_usable(address: Address) -> bool:
    """Tell whether another machine can connect to `address` knowing nothing else."""
    return not (address.is_unspecified or address.is_loopback or address.is_link_local or address.is_multicast)


def literal(host: str) -> tuple[Address, ...] | None:
    """Return the address that the bind host `host` spells out, `None` for a name; no host means all addresses."""
    if host in ("", "*"):
        return (ipaddress.IPv6Address("::"),)
    try:
        return (ipaddress.ip_address(host),)
    except ValueError:
        return None


def resolve(host: str) -> tuple[Address, ...]:
    """Look a name up. Blocks, possibly for many seconds; raises `OSError`."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return tuple(dict.fromkeys(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))


def reachable(bound: Iterable[Address], present: Sequence[Interface]) -> tuple[Address, ...]:
    """Return at which of the addresses on `present` interfaces a listener bound to `bound` can be reached, IPv4 first.

    `0.0.0.0` stands for all IPv4 addresses, `::` for all of both families. Internal interfaces count only where there
    is no other, or where their address was asked for.
    """
    bound = tuple(bound)
    versions = {4} if any(address == ipaddress.IPv4Address(0) for address in bound) else set()
    if any(address == ipaddress.IPv6Address(0) for address in bound):
        versions = {4, 6}
    chosen = [a for interface in present if interface.lan for a in interface.addresses if a.version in versions]
    if not chosen:
        chosen = [a for interface in present for a in interface.addresses if a.version in versions]
    chosen += [address for interface in present for address in interface.addresses if address in bound]
    return tuple(sorted(dict.fromkeys(chosen), key=lambda address: address.version))


def senders(announced: Iterable[Address], present: Sequence[Interface]) -> tuple[Sender, ...]:
    """Return one address per interface and family from which to announce the addresses `announced`."""
    wanted = set(announced)
    chosen: dict[tuple[int, int], Sender] = {}
    for interface in present:
        for address in interface.addresses:
            if address in wanted:
                chosen.setdefault((interface.index, address.version), Sender(address, interface.index))
    return tuple(chosen.values())


def multicast_error(candidates: Sequence[Sender]) -> OSError | None:
    """Return why no candidate may join and send to the mDNS group, `None` if one may.

    Sends an mDNS message without a question, which nobody answers.
    """
    error: OSError | None = None
    for sender in candidates:
        try:
            _try_multicast(sender)
        except OSError as reason:
            error = reason
        else:
            return None
    return error


def _try_multicast(sender: Sender) -> None:
    empty_query = bytes(12)
    if sender.address.version == 4:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.setblocking(False)
            membership = socket.inet_aton(MDNS_GROUP_V4) + sender.address.packed
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, sender.address.packed)
            probe.sendto(empty_query, (MDNS_GROUP_V4, MDNS_PORT))
        return
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        membership = socket.inet_pton(socket.AF_INET6, MDNS_GROUP_V6) + struct.pack("@I", sender.index)
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, sender.index)
        probe.sendto(empty_query, (MDNS_GROUP_V6, MDNS_PORT, 0, sender.index))


def _flags(query: socket.socket, name: str) -> int:
    # struct ifreq: 16 bytes of name, then a union whose first member here is a short with the flags.
    request = struct.pack("16s24x", name.encode()[:15])
    flags: int = struct.unpack_from("H", fcntl.ioctl(query, _SIOCGIFFLAGS, request), 16)[0]
    return flags


def _fleeting_ipv6() -> set[Address]:
    """Return IPv6 addresses that cannot be used yet, or not for long (privacy addresses)."""
    skip = _IFA_F_TEMPORARY | _IFA_F_DADFAILED | _IFA_F_DEPRECATED | _IFA_F_TENTATIVE
    try:
        lines = _IPV6_ADDRESSES.read_text().splitlines()
    except OSError:  # a kernel without IPv6
        return set()
    fields = [line.split() for line in lines]
    return {ipaddress.IPv6Address(bytes.fromhex(field[0])) for field in fields if int(field[4], 16) & skip}
