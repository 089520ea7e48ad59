"""INIT with kernels of several ages."""

from __future__ import annotations

import pytest

from heliosfs.transport.kernel.negotiation import Connection, TooOld, negotiate
from heliosfs.transport.kernel.wire import INIT_OUT, MAX_WRITE, Flag, Layouts

EVERYTHING = (1 << 64) - 1


def init(minor: int, flags: int, *, major: int = 7, extended: bool = True) -> memoryview:
    low = flags & 0xFFFFFFFF
    if extended:
        return memoryview(Layouts.INIT_EXT.pack(major, minor, 1 << 20, low, flags >> 32) + bytes(44))
    return memoryview(Layouts.INIT.pack(major, minor, 1 << 20, low & ~Flag.INIT_EXT))


def test_the_newest() -> None:
    connection, body = negotiate(init(45, EVERYTHING))
    assert connection is not None
    fields = INIT_OUT.unpack(body)
    assert fields[:2] == (7, 45)
    assert fields[6] == MAX_WRITE == connection.max_write
    assert connection.no_open
    for flag in (Flag.HAS_RESEND, Flag.POSIX_ACL, Flag.DONT_MASK, Flag.HANDLE_KILLPRIV_V2, Flag.NO_OPENDIR_SUPPORT):
        assert connection.has(flag)
    assert not connection.has(Flag.ATOMIC_O_TRUNC)
    assert not connection.has(Flag.ASYNC_DIO), "its writes leave stale pages"
    assert not connection.has(Flag.PASSTHROUGH)
    assert fields[10] == connection.flags >> 32


def test_later_minors_are_met_half_way() -> None:
    connection, body = negotiate(init(99, EVERYTHING))
    assert connection is not None
    assert connection.minor == INIT_OUT.unpack(body)[1] == 45


def test_a_later_major_asks_again() -> None:
    connection, body = negotiate(init(0, 0, major=8))
    assert connection is None
    assert INIT_OUT.unpack(body)[:2] == (7, 45)


def test_nothing_is_asked_for_that_was_not_offered() -> None:
    """Linux 5.4: no flags2, and no access lists here."""
    offered = Flag.ASYNC_READ | Flag.BIG_WRITES | Flag.DO_READDIRPLUS | Flag.DONT_MASK | Flag.NO_OPEN_SUPPORT
    connection, body = negotiate(init(31, offered, extended=False))
    assert connection is not None
    fields = INIT_OUT.unpack(body)
    assert fields[1] == 31
    assert connection.flags & ~offered == 0
    assert not connection.has(Flag.DONT_MASK), "the umask is the kernel's where it knows no access lists"
    assert not connection.no_open, "without NO_OPENDIR_SUPPORT it would ask every time"
    assert connection.max_write == 32 * 4096
    assert fields[8] == 0


def test_flags2_counts_only_with_init_ext() -> None:
    connection, _ = negotiate(init(45, EVERYTHING & ~Flag.INIT_EXT))
    assert connection is not None
    assert connection.flags >> 32 == 0


def test_too_old() -> None:
    with pytest.raises(TooOld):
        negotiate(init(30, EVERYTHING))
    with pytest.raises(TooOld):
        negotiate(init(0, 0, major=6))


def test_trusted_and_passthrough() -> None:
    trusted, _ = negotiate(init(45, EVERYTHING), trusted=True)
    assert trusted is not None
    assert trusted.trusted and not trusted.has(Flag.POSIX_ACL) and trusted.has(Flag.DONT_MASK)
    shared, body = negotiate(init(45, EVERYTHING), passthrough=True)
    assert shared is not None
    assert shared.has(Flag.PASSTHROUGH) and not shared.no_open
    assert INIT_OUT.unpack(body)[11] == 1


def test_it_outlives_the_process() -> None:
    connection, _ = negotiate(init(45, EVERYTHING))
    assert connection is not None
    assert Connection.from_json(connection.to_json()) == connection
