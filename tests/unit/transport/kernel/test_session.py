"""A session over a socket pair, asked as a kernel asks."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliosfs.core.ids import ViewNo
from heliosfs.transport.keeping import NobodyKeeps
from heliosfs.transport.kernel import wire as w
from heliosfs.transport.kernel.wire import Layouts
from tests.support.fusewire import Server, Wire, named, read_body, write_body

NOT_REPLIED = {w.FORGET.opcode, w.BATCH_FORGET.opcode, w.INTERRUPT.opcode}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("kernel") / "store")
    yield made
    made.close()


@pytest.fixture
def wire(server: Server) -> Wire:
    return server.wire


def create(wire: Wire, name: bytes, *, parent: int = 1, umask: int = 0) -> int:
    body = named(Layouts.CREATE, os.O_RDWR, stat.S_IFREG | 0o666, umask, 0, names=name + b"\0")
    return wire.entry(wire.ask(w.CREATE, parent, body))[0]


class Heir(NobodyKeeps):
    """Goes on, where the process is taken down."""

    told = 0

    def taken_down(self) -> None:
        self.told += 1


@pytest.mark.parametrize("fails", [True, False])
def test_a_process_that_is_taken_down_leaves_the_mount_to_the_next(tmp_path: Path, fails: bool) -> None:
    heir = Heir()
    server = Server(tmp_path / "store", keeper=heir)
    create(server.wire, b"f")
    if fails:
        server.fail()
    server.close()
    assert heir.told == fails


def test_absent_names_are_remembered(wire: Wire) -> None:
    entry = wire.entry(wire.ask(w.LOOKUP, 1, b"nothing\0"))
    assert entry[0] == 0
    assert entry[2] > 1_000_000


def test_a_file(wire: Wire) -> None:
    node = create(wire, b"f", umask=0o022)
    found = wire.entry(wire.ask(w.LOOKUP, 1, b"f\0"))
    assert found[0] == node == found[6]
    assert stat.S_IMODE(found[15]) == 0o644, "with DONT_MASK the umask is ours"
    assert wire.ask(w.WRITE, node, write_body(0, b"hello")).body[:4] == (5).to_bytes(4, "little")
    assert wire.ask(w.READ, node, read_body(1, 100)).body == b"ello"
    attributes = w.ATTR_OUT.unpack(wire.ask(w.GETATTR, node, Layouts.GETATTR.pack(0, 0, 0)).body)
    assert attributes[4] == 5
    assert wire.ask(w.UNLINK, 1, b"f\0").error == 0
    assert wire.ask(w.READ, node, read_body(0, 100)).body == b"hello", "the kernel knows it still"
    wire.send(w.FORGET, node, Layouts.FORGET.pack(2))
    assert wire.ask(w.READ, node, read_body(0, 100)).error == -errno.ESTALE


@pytest.mark.parametrize("flags", [os.O_WRONLY | os.O_DSYNC, os.O_WRONLY | os.O_SYNC])
def test_a_write_past_the_page_cache_may_ask_to_be_durable(server: Server, wire: Wire, flags: int) -> None:
    """pwritev2(2) with RWF_DSYNC: no FSYNC comes after it. By the page cache one does, and is not anticipated."""
    body = named(Layouts.CREATE, os.O_WRONLY, stat.S_IFREG | 0o666, 0, 0, names=b"durable%d\0" % flags)
    made = wire.ask(w.CREATE, 1, body)
    node = wire.entry(wire.ask(w.LOOKUP, 1, b"durable%d\0" % flags))[0]
    assert w.OPEN_OUT.unpack_from(made.body, w.ENTRY_OUT.size)[:2] == (w.DIRECT_HANDLE, w.FOPEN_DIRECT_IO)
    for handle, durable in ((0, False), (w.DIRECT_HANDLE, True)):
        written = wire.ask(w.WRITE, node, Layouts.WRITE.pack(handle, 0, 3, 0, 0, flags, 0) + b"abc")
        assert (written.error, written.body[:4]) == (0, (3).to_bytes(4, "little"))
        assert server.fs.view_durable(ViewNo(1)) == durable


@pytest.mark.parametrize("access", [os.O_RDWR, os.O_WRONLY | os.O_DSYNC, os.O_WRONLY | os.O_SYNC, os.O_RDONLY])
def test_who_reads_or_wants_it_durable_goes_by_the_page_cache(wire: Wire, access: int) -> None:
    body = named(Layouts.CREATE, access, stat.S_IFREG | 0o666, 0, 0, names=b"cached%d\0" % access)
    assert w.OPEN_OUT.unpack_from(wire.ask(w.CREATE, 1, body).body, w.ENTRY_OUT.size) == (0, 0, 0)


def test_what_is_made_is_shown_as_it_is_found(wire: Wire) -> None:
    """The reply goes out before the change is applied, so it is made of what was asked for."""
    parent = wire.entry(wire.ask(w.MKDIR, 1, named(Layouts.MKDIR, 0o2775, 0, names=b"made\0")))[0]
    chown = Layouts.SETATTR.pack(w.SetAttrBit.GID, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 77, 0)
    wire.ask(w.SETATTR, parent, chown)
    wire.ask(w.SETATTR, parent, Layouts.SETATTR.pack(w.SetAttrBit.MODE, *[0] * 10, 0o2775, 0, 0, 0, 0))
    create = named(Layouts.CREATE, os.O_RDWR, stat.S_IFREG | 0o666, 0o022, 0, names=b"f\0")
    for operation, name, body in (
        (w.CREATE, b"f", create),
        (w.MKDIR, b"d", named(Layouts.MKDIR, 0o777, 0o027, names=b"d\0")),
        (w.SYMLINK, b"l", b"l\0target\0"),
        (w.MKNOD, b"p", named(Layouts.MKNOD, stat.S_IFIFO | 0o600, 0, 0, 0, names=b"p\0")),
        (w.MKNOD, b"c", named(Layouts.MKNOD, stat.S_IFCHR | 0o600, 0x105, 0, 0, names=b"c\0")),
    ):
        made = wire.entry(wire.ask(operation, parent, body))
        assert made == wire.entry(wire.ask(w.LOOKUP, parent, name + b"\0")), name
        assert made[18] == 77, "set-group-ID gives its group"


def test_append_goes_to_the_end_there_is(wire: Wire) -> None:
    node = create(wire, b"log")
    wire.ask(w.WRITE, node, write_body(0, b"one"))
    wire.ask(w.WRITE, node, write_body(100, b"two", flags=os.O_APPEND))
    assert wire.ask(w.READ, node, read_body(0, 100)).body == b"onetwo"


def test_what_comes_once(wire: Wire) -> None:
    for operation in (w.OPEN, w.OPENDIR):
        assert wire.ask(operation, 1, Layouts.OPEN.pack(0, 0)).error == -errno.ENOSYS
    assert wire.ask(w.FLUSH, 1, Layouts.FLUSH.pack(0, 0, 0, 0)).error == -errno.ENOSYS
    assert wire.ask(w.ACCESS, 1, Layouts.ACCESS.pack(0, 0)).error == -errno.ENOSYS
    assert wire.ask(60, 1).error == -errno.ENOSYS
    assert wire.ask(4096, 1).error == -errno.ENOSYS


def test_listing(wire: Wire) -> None:
    """What the kernel has from us it is given no second time; what it has given back it is."""
    parent = wire.entry(wire.ask(w.MKDIR, 1, named(Layouts.MKDIR, 0o755, 0, names=b"d\0")))[0]
    names = {b"name%03d" % number for number in range(100)}
    nodes = {name: create(wire, name, parent=parent) for name in names}
    given_back = {node for name, node in nodes.items() if name.endswith(b"7")}
    for node in given_back:
        wire.send(w.FORGET, node, Layouts.FORGET.pack(1))
    plus = w.ENTRY_OUT.size
    for operation, skipped, anew in (
        (w.READDIRPLUS, plus, given_back),
        (w.READDIR, 0, set()),
        (w.READDIRPLUS, plus, set()),
    ):
        seen: list[bytes] = []
        cookie = 0
        while body := wire.ask(operation, parent, read_body(cookie, 4096)).body:
            assert len(body) <= 4096
            at = 0
            while at < len(body):
                entry = w.ENTRY_OUT.unpack_from(body, at) if skipped else None
                ino, cookie, length, kind = w.DIRENT.unpack_from(body, at + skipped)
                start = at + skipped + w.DIRENT.size
                name = body[start : start + length]
                seen.append(name)
                if name in (b".", b".."):
                    assert kind == stat.S_IFDIR >> 12
                    assert entry is None or entry[0] == 0, "no lookup is counted for it"
                else:
                    assert kind == stat.S_IFREG >> 12
                    assert ino == nodes[name]
                    assert entry is None or entry[0] == (ino if ino in anew else 0)
                at = start + length + (-length & 7)
        assert len(seen) == len(set(seen))
        assert set(seen) == names | {b".", b".."}


def test_file_handles(wire: Wire) -> None:
    """`.` of any node is itself, `..` of a directory the one above; nothing is above the root."""
    parent = wire.entry(wire.ask(w.MKDIR, 1, named(Layouts.MKDIR, 0o755, 0, names=b"handles\0")))[0]
    node = create(wire, b"f", parent=parent)
    assert wire.entry(wire.ask(w.LOOKUP, node, b".\0"))[0] == node
    above = wire.entry(wire.ask(w.LOOKUP, parent, b"..\0"))
    assert above[:2] == (1, 0), "the root is 1 for the kernel; by another number it would have two"
    assert wire.entry(wire.ask(w.LOOKUP, 1, b".\0")) == above
    assert wire.ask(w.LOOKUP, 1, b"..\0").error == -errno.ESTALE
    assert wire.ask(w.UNLINK, parent, b"f\0").error == 0
    assert wire.ask(w.LOOKUP, node, b".\0").error == -errno.ESTALE, "though the kernel knows it still"


@pytest.mark.parametrize(
    ("mode", "owners", "others"),
    [(0o6666, 0o0666, 0o6666), (0o2767, 0o0767, 0o2767), (0o6777, 0o0777, 0o6777), (0o2644, 0o0644, 0o2644)],
)
def test_a_setattr_of_nothing(wire: Wire, mode: int, owners: int, others: int) -> None:
    """A stranger's chown(2) takes no set-id bits, and what comes before FALLOCATE looks the same."""
    node = create(wire, f"owned{mode:o}".encode())
    wire.ask(w.SETATTR, node, Layouts.SETATTR.pack(w.SetAttrBit.UID, *[0] * 12, 1000, 0, 0))
    wire.ask(w.SETATTR, node, Layouts.SETATTR.pack(w.SetAttrBit.MODE, *[0] * 10, mode, 0, 0, 0, 0))
    for uid, left, kept in ((2000, others, False), (1000, owners, True)):
        attributes = w.ATTR_OUT.unpack(wire.ask(w.SETATTR, node, Layouts.SETATTR.pack(*[0] * 16), uid=uid).body)
        assert attributes[12] & 0o7777 == left
        assert bool(attributes[0]) == kept, "the kernel asks for no mode after FALLOCATE"


def test_negative_times(wire: Wire) -> None:
    node = create(wire, b"old")
    second = (1 << 64) - 10
    body = Layouts.SETATTR.pack(w.SetAttrBit.MTIME, 0, 0, 0, 0, 0, second, 0, 0, 500, 0, 0, 0, 0, 0, 0)
    attributes = w.ATTR_OUT.unpack(wire.ask(w.SETATTR, node, body).body)
    assert attributes[7] == -10
    assert attributes[10] == 500


def test_a_request_that_waits_lets_others_through(wire: Wire) -> None:
    """FSYNC waits for the disk; the lead goes to another task meanwhile, and each reply goes to its request."""
    node = create(wire, b"synced")
    waiting = {}
    for number in range(20):
        assert wire.ask(w.WRITE, node, write_body(number, b"x")).error == 0
        waiting[wire.send(w.FSYNC, node, Layouts.FSYNC.pack(0, 0, 0))] = w.FSYNC
        waiting[wire.send(w.GETATTR, node, Layouts.GETATTR.pack(0, 0, 0))] = w.GETATTR
        while waiting:
            reply = wire.receive()
            assert reply.error == 0
            assert len(reply.body) == (0 if waiting.pop(reply.unique) is w.FSYNC else w.ATTR_OUT.size)


def test_a_control_file_through_the_page_cache(wire: Wire) -> None:
    """The reply is whole from where the writer is, and one JSON line from the start."""
    helios = wire.entry(wire.ask(w.LOOKUP, 1, b".helios\0"))[0]
    first = wire.entry(wire.ask(w.LOOKUP, helios, b"ctl\0"))
    second = wire.entry(wire.ask(w.LOOKUP, helios, b"ctl\0"))
    assert first[0] != second[0]
    assert first[6] == second[6], "st_ino is the same for ever"
    command = b"checkpoint named\n"
    assert wire.ask(w.WRITE, first[0], write_body(0, command)).error == 0
    size = w.ATTR_OUT.unpack(wire.ask(w.GETATTR, first[0], Layouts.GETATTR.pack(0, 0, 0)).body)[4]
    content = wire.ask(w.READ, first[0], read_body(0, 4096)).body
    assert len(content) == size
    assert content[: len(command)].isspace()
    assert content[len(command) :].startswith(b'{"ok":true')
    assert b"named" in content


ANSWERED: set[int] = set()
MESSAGES = st.tuples(
    st.one_of(st.sampled_from(sorted(w.BY_OPCODE)), st.integers(0, (1 << 32) - 1)),
    st.one_of(st.just(1), st.integers(0, 40), st.integers(0, (1 << 64) - 1)),
    st.one_of(st.binary(max_size=120), st.binary(min_size=8, max_size=60).map(lambda data: data + b"\0")),
    st.integers(-50, 50),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(MESSAGES, min_size=1, max_size=15))
def test_malformed_requests(server: Server, messages: list[tuple[int, int, bytes, int]]) -> None:
    """Whatever comes is answered once, or dropped, and the next request is served."""
    wire = server.wire
    for opcode, node, body, lie in messages:
        length = w.IN_HEADER.size + len(body)
        told = max(length + lie, 0) if lie % 2 else length
        mine = wire.send(w.STATFS, 1) + 1
        header = w.IN_HEADER.pack(told, opcode, mine, node, 0, 0, 0, 0, 0)
        wire.end.send((header + body)[: length + min(lie, 0)] or b"x")
        unique = wire.send(w.STATFS, 1)
        while True:
            reply = wire.receive()
            assert reply.unique not in ANSWERED, "answered twice"
            ANSWERED.add(reply.unique)
            assert -4096 < reply.error <= 0
            if reply.unique == mine and opcode in NOT_REPLIED:
                assert reply.error == -errno.EINVAL
            if reply.unique == unique:
                assert reply.error == 0
                break
