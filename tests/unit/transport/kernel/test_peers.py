"""Kernels of every age, each with and without each thing it may offer: what is agreed on, and that no more is used.

Source: the history at the head of linux/fuse.h.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

import pytest

from heliosfs.transport.kernel import wire as w
from heliosfs.transport.kernel.negotiation import WANTED, negotiate
from heliosfs.transport.kernel.wire import Flag, Layouts
from tests.support.fusewire import Reply, Server, Wire, named, read_body, write_body

SINCE = {
    Flag.ASYNC_READ: 6,
    Flag.ATOMIC_O_TRUNC: 9,
    Flag.EXPORT_SUPPORT: 10,
    Flag.BIG_WRITES: 9,
    Flag.DONT_MASK: 12,
    Flag.HAS_IOCTL_DIR: 18,
    Flag.DO_READDIRPLUS: 21,
    Flag.ASYNC_DIO: 22,
    Flag.NO_OPEN_SUPPORT: 23,
    Flag.PARALLEL_DIROPS: 25,
    Flag.POSIX_ACL: 26,
    Flag.ABORT_ERROR: 27,
    Flag.MAX_PAGES: 28,
    Flag.CACHE_SYMLINKS: 28,
    Flag.NO_OPENDIR_SUPPORT: 29,
    Flag.EXPLICIT_INVAL_DATA: 30,
    Flag.HANDLE_KILLPRIV_V2: 33,
    Flag.SETXATTR_EXT: 33,
    Flag.INIT_EXT: 36,
    Flag.HAS_EXPIRE_ONLY: 38,
    Flag.PASSTHROUGH: 40,
    Flag.HAS_RESEND: 40,
}
MINORS = range(w.OLDEST_MINOR, w.MINOR + 1)
UNSUPPORTED = -38


def has(minor: int) -> int:
    """All that a kernel of this minor offers."""
    return sum(flag for flag, since in SINCE.items() if since <= minor)


def init_body(minor: int, flags: int) -> bytes:
    """INIT as that kernel sends it: flags2 lies in what was padding before."""
    if minor < SINCE[Flag.INIT_EXT]:
        return Layouts.INIT.pack(w.MAJOR, minor, 128 << 10, flags & 0xFFFFFFFF)
    return Layouts.INIT_EXT.pack(w.MAJOR, minor, 128 << 10, flags & 0xFFFFFFFF, flags >> 32) + bytes(44)


def agreed(body: bytes, minor: int, offered: int) -> int:
    """The flags of a reply to INIT, after a look at all of it."""
    fields = w.INIT_OUT.unpack(body)
    assert fields[:3] == (w.MAJOR, minor, 128 << 10)
    low, max_write, granularity, pages, alignment, high, depth, timeout = (
        *fields[3:4],
        *fields[6:9],
        *fields[9:11],
        *fields[11:13],
    )
    flags = low | high << 32
    assert not flags & ~offered
    assert not high or flags & Flag.INIT_EXT
    assert (max_write, pages) == ((w.MAX_WRITE, 256) if offered & Flag.MAX_PAGES else (128 << 10, 0))
    assert (granularity, alignment, timeout) == (1, 0, 0)
    assert depth == (1 if flags & Flag.PASSTHROUGH else 0)
    assert not flags & Flag.ATOMIC_O_TRUNC
    return flags


@pytest.mark.parametrize("passthrough", [False, True])
@pytest.mark.parametrize("trusted", [False, True])
def test_nothing_that_was_not_offered(passthrough: bool, trusted: bool) -> None:
    """Every minor, with each flag that it has missing, and with each alone."""
    for minor in MINORS:
        everything = has(minor)
        single = [flag for flag in SINCE if flag & everything]
        for offered in (everything, 0, *(everything & ~flag for flag in single), *single):
            connection, body = negotiate(
                memoryview(init_body(minor, offered)), passthrough=passthrough, trusted=trusted
            )
            assert connection is not None
            flags = agreed(body, minor, offered)
            assert flags == connection.flags
            assert connection.minor == minor
            assert connection.max_write == w.INIT_OUT.unpack(body)[6]
            assert not (trusted and flags & Flag.POSIX_ACL)
            # The umask is ours to apply only where a default access list may stand in for it.
            assert bool(flags & Flag.DONT_MASK) == bool(
                offered & Flag.DONT_MASK and (trusted or offered & Flag.POSIX_ACL)
            )
            if not flags & Flag.INIT_EXT:
                assert not flags >> 32
            missing = WANTED & offered & ~flags & ~Flag.DONT_MASK & ~Flag.POSIX_ACL
            assert not missing & 0xFFFFFFFF


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("peers") / "store")
    yield made
    made.close()


PEERS = [
    *(pytest.param(minor, has(minor), id=f"7.{minor}") for minor in MINORS),
    *(
        pytest.param(w.MINOR, has(w.MINOR) & ~flag, id=f"7.{w.MINOR} without bit {flag.bit_length() - 1}")
        for flag in SINCE
        if flag & WANTED
    ),
    pytest.param(w.OLDEST_MINOR, 0, id="7.31 with nothing"),
]


@pytest.mark.parametrize(("minor", "offered"), PEERS)
def test_a_session_with_each(server: Server, minor: int, offered: int) -> None:
    """Replies as long as that kernel wants them; no later flag in them; no later notification."""
    with server.connected(init_body(minor, offered)) as (wire, reply):
        assert (reply.error, reply.unique) == (0, 4)
        flags = agreed(reply.body, minor, offered)
        name = b"of-%d-%x" % (minor, offered)
        parent = wire.entry(exchange(wire, w.MKDIR, 1, named(Layouts.MKDIR, 0o777, 0o027, names=name + b"\0")))
        # Where the umask is not ours, the kernel has taken it off.
        assert stat.S_IMODE(parent[15]) == (0o750 if flags & Flag.DONT_MASK else 0o777)
        create = named(Layouts.CREATE, os.O_WRONLY, stat.S_IFREG | 0o644, 0, 0, names=b"f\0")
        made = exchange(wire, w.CREATE, parent[0], create)
        assert len(made.body) == w.ENTRY_OUT.size + w.OPEN_OUT.size
        _, opened, backing = w.OPEN_OUT.unpack_from(made.body, w.ENTRY_OUT.size)
        assert opened == (w.FOPEN_DIRECT_IO if minor >= 40 else 0)
        assert backing == 0
        node = wire.entry(made)[0]
        assert len(exchange(wire, w.WRITE, node, write_body(0, b"content")).body) == 8
        assert exchange(wire, w.READ, node, read_body(0, 4096)).body == b"content"
        assert len(exchange(wire, w.GETATTR, node, Layouts.GETATTR.pack(0, 0, 0)).body) == w.ATTR_OUT.size
        assert len(exchange(wire, w.SETATTR, node, Layouts.SETATTR.pack(*[0] * 16)).body) == w.ATTR_OUT.size
        assert len(exchange(wire, w.STATFS, 1).body) == w.STATFS_OUT.size
        layout, fields = (
            (Layouts.SETXATTR_EXT, (5, 0, 0, 0)) if flags & Flag.SETXATTR_EXT else (Layouts.SETXATTR, (5, 0))
        )
        value = named(layout, *fields, names=b"user.name\0value")
        assert exchange(wire, w.SETXATTR, node, value).error == 0
        got = exchange(wire, w.GETXATTR, node, named(Layouts.GETXATTR, 100, 0, names=b"user.name\0"))
        assert got.body == b"value"
        for operation in (w.READDIR, w.READDIRPLUS):
            assert exchange(wire, operation, parent[0], read_body(0, 4096)).error == 0
        if minor >= w.STATX.since:
            assert (
                len(exchange(wire, w.STATX, node, Layouts.STATX.pack(0, 0, 0, 0xFFF, 0)).body) == w.STATX_OUT.size
            )
        for operation in (w.OPEN, w.OPENDIR):
            assert exchange(wire, operation, node, Layouts.OPEN.pack(0, 0)).error == UNSUPPORTED
        # A command that changes what this kernel has cached, so that it has to be told.
        helios = wire.entry(exchange(wire, w.LOOKUP, 1, b".helios\0"))[0]
        for act in (b"checkpoint s", b"restore s " + name, b"snapshot rm s"):
            ticket = wire.entry(exchange(wire, w.LOOKUP, helios, b"ctl\0"))[0]
            assert exchange(wire, w.WRITE, ticket, write_body(0, act)).error == 0
            if act == b"checkpoint s":
                assert exchange(wire, w.UNLINK, parent[0], b"f\0").error == 0
        found = wire.entry(exchange(wire, w.LOOKUP, parent[0], b"f\0"))[0]
        assert exchange(wire, w.READ, found, read_body(0, 4096)).body == b"content"


def exchange(wire: Wire, operation: w.Operation, node: int, body: bytes = b"") -> Reply:
    """One request and its reply; what we are told meanwhile is what every kernel since 7.31 knows."""
    unique = wire.send(operation, node, body)
    while True:
        reply = wire.receive()
        if reply.unique == unique:
            return reply
        assert reply.unique == 0
        assert reply.error in (w.NOTIFY_INVAL_INODE, w.NOTIFY_INVAL_ENTRY, w.NOTIFY_STORE)
        if reply.error == w.NOTIFY_INVAL_ENTRY:
            assert w.INVAL_ENTRY_OUT.unpack_from(reply.body)[2] == 0, "flags came with 7.38"
