"""Which user's process holds the peer's socket of a TCP connection on this machine.

Linux alone has that, by netlink (50 µs) or, where that is forbidden, in /proc/net (ms).
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import sys
from functools import cache
from pathlib import Path

SUPPORTED = sys.platform == "linux"

Address = tuple[str, int]
"""Numeric host without a zone, and port."""

SOCK_DIAG_BY_FAMILY = 20
NETLINK_SOCK_DIAG = 4
ANY_COOKIE = b"\xff" * 8


def owner(peer: Address, ours: Address) -> int | None:
    """The uid that holds the socket at `peer` connected to `ours`; `None` where there is none on this machine.

    A socket whose process has closed it already has no owner any more, whatever uid the kernel still shows.
    """
    far, near = _plain(peer[0]), _plain(ours[0])
    pairs = [(far, near)]
    if far.version == 4 and near.version == 4:
        # a client may reach an IPv4 address through an IPv6 socket
        pairs.append((ipaddress.IPv6Address(f"::ffff:{far}"), ipaddress.IPv6Address(f"::ffff:{near}")))
    for source, target in pairs:
        for look_up in (_by_netlink, _by_proc):
            with contextlib.suppress(OSError):
                found = look_up(source, peer[1], target, ours[1])
                if found is not None:
                    return found
                break  # the look-up worked, and there is no such socket
    return None


def close() -> None:
    """Close what look-ups keep open; the next one opens it again."""
    if _netlink.cache_info().currsize:
        _netlink().close()
        _netlink.cache_clear()


IP = ipaddress.IPv4Address | ipaddress.IPv6Address


def _plain(host: str) -> IP:
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if address.version == 6 else None
    return mapped or address


def _by_netlink(source: IP, sport: int, target: IP, dport: int) -> int | None:
    family = socket.AF_INET if source.version == 4 else socket.AF_INET6
    name = (
        struct.pack("!HH", sport, dport)
        + source.packed.ljust(16, b"\0")
        + target.packed.ljust(16, b"\0")
        + struct.pack("=I", 0)
        + ANY_COOKIE
    )
    body = struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 0, 0xFFFFFFFF) + name
    sock = _netlink()
    try:
        sock.send(struct.pack("=IHHII", 16 + len(body), SOCK_DIAG_BY_FAMILY, 1, 1, 0) + body)
        answer = sock.recv(4096)
    except OSError:  # an answer that comes later must not be taken for the next look-up's
        close()
        raise
    length, kind = struct.unpack_from("=IH", answer)
    if kind != SOCK_DIAG_BY_FAMILY or length < 88:
        (code,) = struct.unpack_from("=i", answer, 16)
        if code == -2:  # ENOENT
            return None
        raise OSError(-code, "netlink has no answer")
    if answer[20:56] != name[:36]:
        raise OSError("netlink answered for another socket")
    uid, inode = struct.unpack_from("=II", answer, 80)
    return int(uid) if inode else None


@cache
def _netlink() -> socket.socket:
    """The process's one socket for this, kept, since where no descriptor is left a new one could not be opened."""
    sock = socket.socket(getattr(socket, "AF_NETLINK", -1), socket.SOCK_DGRAM, NETLINK_SOCK_DIAG)
    sock.settimeout(0.5)  # the kernel answers within the call; a deadline all the same
    return sock


def _by_proc(source: IP, sport: int, target: IP, dport: int) -> int | None:
    table = Path("/proc/net/tcp" if source.version == 4 else "/proc/net/tcp6").read_bytes()
    ends = f" {_hex(source)}:{sport:04X} {_hex(target)}:{dport:04X} ".encode()
    at = table.find(ends)
    if at < 0:
        return None
    fields = table[at : table.find(b"\n", at)].split()
    uid, inode = int(fields[6]), int(fields[8])
    return uid if inode else None


def _hex(address: IP) -> str:
    """As /proc/net writes it: each 32-bit word in the machine's byte order."""
    packed = address.packed
    return "".join(f"{int.from_bytes(packed[i : i + 4], sys.byteorder):08X}" for i in range(0, len(packed), 4))
