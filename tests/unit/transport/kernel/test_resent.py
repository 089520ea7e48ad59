"""Requests that come a second time, to a process that has taken over: carried out once, answered as then."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from heliosfs.control import ioctl
from heliosfs.control.remembering import Memory
from heliosfs.core import oplog
from heliosfs.core.ids import ViewNo
from heliosfs.transport.kernel import wire as w
from heliosfs.transport.kernel.replies import ABSENT
from heliosfs.transport.kernel.wire import Layouts, Operation
from tests.support.fusewire import Again, Reply, Server, Wire, named, read_body, write_body

NUMBER = 77
RESEND = w.OUT_HEADER.pack(w.OUT_HEADER.size, w.NOTIFY_RESEND, 0)


class Death:
    """A server, and the one that goes on after its SIGKILL."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.memory = Memory(lambda _fd: None)
        self.first = Server(directory / "store", number=NUMBER, memory=self.memory)
        self.second: Server | None = None

    @property
    def wire(self) -> Wire:
        return (self.second or self.first).wire

    def dies(self, *again: Again) -> list[Reply]:
        """SIGKILL; the replies of its successor to what the kernel sends again, in that order."""
        wire = self.goes_on(*again)
        replies = {reply.unique & ~w.RESENT: reply for reply in (wire.receive() for _ in again)}
        return [replies[unique] for unique, _, _, _ in again]

    def goes_on(self, *again: Again) -> Wire:
        """The same; what is said next is to be received."""
        killed = self._directory / "killed"
        shutil.copytree(self._directory / "store", killed, ignore=shutil.ignore_patterns("lock", "socket"))
        memory = Memory(lambda _fd: None, os.dup(self.memory.fd))
        self.second = Server(killed, number=NUMBER, again=True, waiting=again, memory=memory)
        assert self.second.wire.end.recv(100) == RESEND
        return self.second.wire

    def close(self) -> None:
        self.first.close()
        if self.second is not None:
            self.second.close()


@pytest.fixture
def death(tmp_path: Path) -> Iterator[Death]:
    made = Death(tmp_path)
    yield made
    made.close()


def create_body(name: bytes, access: int = os.O_RDWR) -> bytes:
    return named(Layouts.CREATE, access | os.O_EXCL, stat.S_IFREG | 0o644, 0, 0, names=name + b"\0")


def done(wire: Wire, operation: Operation, node: int, body: bytes) -> tuple[int, bytes]:
    """Ask; the request's number and its reply's body."""
    reply = wire.ask(operation, node, body)
    assert reply.error == 0, errno.errorcode[-reply.error]
    return reply.unique, reply.body


def test_what_makes_a_name(death: Death) -> None:
    wire = death.wire
    _, body = done(wire, w.CREATE, 1, create_body(b"there"))
    there = w.ENTRY_OUT.unpack_from(body)[0]
    bodies = {
        w.CREATE: create_body(b"created"),
        w.MKDIR: named(Layouts.MKDIR, 0o755, 0, names=b"made\0"),
        w.MKNOD: named(Layouts.MKNOD, stat.S_IFIFO | 0o644, 0, 0, 0, names=b"fifo\0"),
        w.SYMLINK: b"link\0target\0",
        w.LINK: named(Layouts.LINK, there, names=b"linked\0"),
    }
    before = {operation: done(wire, operation, 1, body) for operation, body in bodies.items()}
    again = death.dies(*((unique, operation, 1, bodies[operation]) for operation, (unique, _) in before.items()))
    for (operation, (_, body)), reply in zip(before.items(), again, strict=True):
        assert (reply.error, reply.body) == (0, body), operation.name
    assert death.wire.ask(w.CREATE, 1, create_body(b"created")).error == -errno.EEXIST


def test_a_file_stays_open_as_it_was(death: Death) -> None:
    """For writing alone, past the page cache; what the kernel holds of it must not change with the process."""
    body = create_body(b"f", os.O_WRONLY)
    unique, before = done(death.wire, w.CREATE, 1, body)
    assert w.OPEN_OUT.unpack_from(before, w.ENTRY_OUT.size) == (w.DIRECT_HANDLE, w.FOPEN_DIRECT_IO, 0)
    (again,) = death.dies((unique, w.CREATE, 1, body))
    assert again.body == before


def test_what_takes_a_name(death: Death) -> None:
    wire = death.wire
    for name in (b"a", b"b"):
        done(wire, w.CREATE, 1, create_body(name))
    done(wire, w.MKDIR, 1, named(Layouts.MKDIR, 0o755, 0, names=b"d\0"))
    rename = named(Layouts.RENAME2, 1, 0, 0, names=b"a\0c\0")
    before: list[Again] = [
        (done(wire, operation, 1, body)[0], operation, 1, body)
        for operation, body in ((w.RENAME2, rename), (w.UNLINK, b"b\0"), (w.RMDIR, b"d\0"))
    ]
    assert [reply.error for reply in death.dies(*before)] == [0, 0, 0]
    assert death.wire.ask(w.UNLINK, 1, b"b\0").error == -errno.ENOENT
    assert death.wire.entry(death.wire.ask(w.LOOKUP, 1, b"c\0"))[0]


def test_writes_do_not_come_back_over_later_ones(death: Death) -> None:
    wire = death.wire
    node = w.ENTRY_OUT.unpack_from(done(wire, w.CREATE, 1, create_body(b"f"))[1])[0]
    first, body = done(wire, w.WRITE, node, write_body(0, b"first"))
    done(wire, w.WRITE, node, write_body(0, b"later"))
    (again,) = death.dies((first, w.WRITE, node, write_body(0, b"first")))
    assert again.body == body
    assert death.wire.ask(w.READ, node, read_body(0, 100)).body == b"later"


def test_what_was_not_carried_out_is_done_now(death: Death) -> None:
    done(death.wire, w.CREATE, 1, create_body(b"f"))
    made, gone, refused = death.dies(
        (1000, w.CREATE, 1, create_body(b"g")), (1002, w.UNLINK, 1, b"f\0"), (1004, w.UNLINK, 1, b"absent\0")
    )
    assert death.wire.entry(made)[0]
    assert (gone.error, refused.error) == (0, -errno.ENOENT)
    assert death.wire.ask(w.LOOKUP, 1, b"f\0").body == ABSENT


def test_reads_are_done_again(death: Death) -> None:
    wire = death.wire
    node = w.ENTRY_OUT.unpack_from(done(wire, w.CREATE, 1, create_body(b"f"))[1])[0]
    done(wire, w.WRITE, node, write_body(0, b"content"))
    read, found = death.dies((2000, w.READ, node, read_body(0, 3)), (2002, w.LOOKUP, 1, b"f\0"))
    assert read.body == b"con"
    assert death.wire.entry(found)[0] == node


def test_unlinked_files_outlive_even_a_forget(death: Death) -> None:
    wire = death.wire
    node = w.ENTRY_OUT.unpack_from(done(wire, w.CREATE, 1, create_body(b"f"))[1])[0]
    done(wire, w.WRITE, node, write_body(0, b"content"))
    done(wire, w.UNLINK, 1, b"f\0")
    death.dies()
    assert death.wire.ask(w.READ, node, read_body(0, 100)).body == b"content"
    death.wire.send(w.FORGET, node, Layouts.FORGET.pack(1))
    assert death.wire.ask(w.READ, node, read_body(0, 100)).body == b"content"


def test_a_command_is_carried_out_once(death: Death) -> None:
    wire = death.wire
    control = wire.entry(wire.ask(w.LOOKUP, 1, b".helios\0"))[0]
    snapshots = wire.entry(wire.ask(w.LOOKUP, control, b"snapshots\0"))[0]
    body = named(Layouts.MKDIR, 0o755, 0, names=b"one\0")
    unique, _ = done(wire, w.MKDIR, snapshots, body)
    (again,) = death.dies((unique, w.MKDIR, snapshots, body))
    assert again.error == 0
    assert death.second is not None
    assert [snapshot.name for snapshot in death.second.fs.snapshots(ViewNo(1))] == [b"one"]
    assert death.wire.ask(w.MKDIR, snapshots, body).error == -errno.EEXIST


def ioctl_body(line: bytes) -> bytes:
    # Not filled up as a kernel's is: some of them have to wait in a socket's buffer.
    structure = bytes(ioctl.request(line)).rstrip(b"\0")
    return Layouts.IOCTL.pack(0, w.IOCTL_DIR, ioctl.NUMBER, 0, len(structure), ioctl.SIZE) + structure


def answered(body: bytes) -> tuple[int, dict[str, object]]:
    """The call's result, and the line that came with it."""
    return w.IOCTL_OUT.unpack_from(body)[0], json.loads(ioctl.reply_in(body[w.IOCTL_OUT.size :])[0])


def test_a_command_by_ioctl_is_carried_out_once(death: Death) -> None:
    """One that was carried out says so again; one that was refused or asked for nothing is simply done."""
    wire = death.wire
    control = wire.entry(wire.ask(w.LOOKUP, 1, b".helios\0"))[0]
    lines = (b"checkpoint one", b"checkpoint one", b"ls", b"retention --keep-last 3")
    before = [(*done(wire, w.IOCTL, control, ioctl_body(line)), line) for line in lines]
    again = death.dies(*((unique, w.IOCTL, control, ioctl_body(line)) for unique, _, line in before))
    made, refused, listed, kept = (answered(reply.body) for reply in again)
    assert (made[0], made[1]["name"]) == (0, "one")
    assert made[1]["id"] == answered(before[0][1])[1]["id"]
    assert (refused[0], refused[1]["errno"]) == (-errno.EEXIST, "EEXIST")
    assert (listed[0], listed[1]["latest"]) == (0, "one")
    assert (kept[0], kept[1]["ok"]) == (0, True)
    assert death.second is not None
    assert [snapshot.name for snapshot in death.second.fs.snapshots(ViewNo(1))] == [b"one"]


def test_a_restore_by_attribute_is_answered_before_names_are_told(death: Death) -> None:
    """Its caller holds the directory's lock, which a notification of a name in it takes."""
    wire = death.wire
    set_ = partial(named, Layouts.SETXATTR_EXT, 2, 0, 0, 0)
    done(wire, w.CREATE, 1, create_body(b"f"))
    done(wire, w.SETXATTR, 1, set_(names=b"user.helios.checkpoint\0v1"))
    done(wire, w.UNLINK, 1, b"f\0")
    body = set_(names=b"user.helios.restore\0v1")
    unique = wire.send(w.SETXATTR, 1, body)
    while wire.receive().unique != unique:
        pass
    wire = death.goes_on((unique, w.SETXATTR, 1, body))
    seen = [wire.receive()]
    while (seen[-1].unique, seen[-1].error) != (0, w.NOTIFY_INVAL_ENTRY):
        seen.append(wire.receive())
    assert [reply.error for reply in seen if reply.unique & ~w.RESENT == unique] == [0]


def test_malformed_ioctls(death: Death) -> None:
    wire = death.wire
    control = wire.entry(wire.ask(w.LOOKUP, 1, b".helios\0"))[0]
    body = ioctl_body(b"checkpoint one")
    for wrong in (
        body[:-1],
        Layouts.IOCTL.pack(0, 0, ioctl.NUMBER, 0, 0, ioctl.SIZE),
        Layouts.IOCTL.pack(0, 0, ioctl.NUMBER, 0, 1 << 31, ioctl.SIZE) + body[Layouts.IOCTL.size :],
    ):
        assert wire.ask(w.IOCTL, control, wrong).error == -errno.EINVAL
    assert wire.ask(w.IOCTL, 999, body).error == -errno.ESTALE
    assert wire.ask(w.IOCTL, control, body).error == 0
    # Not enough room for a reply: the command is carried out all the same, as with any buffer that is too short.
    structure = body[Layouts.IOCTL.size :]
    short = Layouts.IOCTL.pack(0, 0, ioctl.NUMBER, 0, len(structure), 16)
    assert wire.ask(w.IOCTL, control, short + structure).error == -errno.EINVAL


def test_nothing_is_kept_once_something_new_has_come(death: Death) -> None:
    unique, _ = done(death.wire, w.CREATE, 1, create_body(b"f"))
    done(death.wire, w.CREATE, 1, create_body(b"g"))
    (again,) = death.dies((unique, w.CREATE, 1, create_body(b"f")))
    assert again.error == 0
    assert death.wire.ask(w.GETATTR, 1, Layouts.GETATTR.pack(0, 0, 0)).error == 0
    assert death.second is not None
    assert death.second.fs.unanswered == {}


@pytest.mark.parametrize("operation", [w.SETXATTR, w.SETATTR], ids=["SETXATTR", "SETATTR"])
def test_attributes(death: Death, operation: Operation) -> None:
    wire = death.wire
    node = w.ENTRY_OUT.unpack_from(done(wire, w.CREATE, 1, create_body(b"f"))[1])[0]
    body = Layouts.SETATTR.pack(1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0o600, 0, 0, 0, 0)
    if operation is w.SETXATTR:
        body = named(Layouts.SETXATTR_EXT, 1, os.XATTR_CREATE, 0, 0, names=b"user.a\0x")
    unique, before = done(wire, operation, node, body)
    (again,) = death.dies((unique, operation, node, body))
    # For how long they may be kept comes first.
    assert (again.error, again.body[16:]) == (0, before[16:])


def test_what_a_record_does_not_say_is_done_again(death: Death) -> None:
    """A policy is set once more: its record has not what was answered."""
    wire = death.wire
    control = wire.entry(wire.ask(w.LOOKUP, 1, b".helios\0"))[0]
    ticket = wire.entry(wire.ask(w.LOOKUP, control, b"ctl\0"))[0]
    done(wire, w.WRITE, ticket, write_body(0, b"checkpoint one"))
    body = write_body(0, b"retention --keep-last 3")
    # Killed before it has remembered what it answered.
    lines = os.fstat(death.memory.fd).st_size
    unique, before = done(wire, w.WRITE, ticket, body)
    os.ftruncate(death.memory.fd, lines)
    (again,) = death.dies((unique, w.WRITE, ticket, body))
    assert (again.error, again.body) == (0, before)
    unique = death.wire.send(w.READ, ticket, read_body(0, 9999))
    while (shown := death.wire.receive()).unique != unique:
        pass  # Pages of the ticket are dropped.
    assert json.loads(shown.body)["verb"] == "retention"


def test_the_reply_to_a_command_by_attribute_can_be_read(death: Death) -> None:
    wire = death.wire
    body = named(Layouts.SETXATTR_EXT, 3, 0, 0, 0, names=b"user.helios.checkpoint\0one")
    get = named(Layouts.GETXATTR, 4096, 0, names=b"user.helios.checkpoint\0")
    lines = os.fstat(death.memory.fd).st_size
    unique, _ = done(wire, w.SETXATTR, 1, body)
    _, before = done(wire, w.GETXATTR, 1, get)
    os.ftruncate(death.memory.fd, lines)
    assert [reply.error for reply in death.dies((unique, w.SETXATTR, 1, body))] == [0]
    assert done(death.wire, w.GETXATTR, 1, get)[1] == before


TAKES_SET_ID: dict[Operation, bytes] = {
    w.WRITE: Layouts.WRITE.pack(0, 0, 3, w.WRITE_KILL_SUIDGID, 0, 0, 0) + b"new",
    w.FALLOCATE: Layouts.FALLOCATE.pack(0, 0, 3, 0, 0),
    w.COPY_FILE_RANGE: b"",
    w.SETXATTR: named(Layouts.SETXATTR_EXT, 1, 0, w.SETXATTR_ACL_KILL_SGID, 0, names=b"user.a\0x"),
}


@pytest.mark.parametrize("operation", TAKES_SET_ID, ids=lambda operation: operation.name)
def test_what_takes_set_id_bits_first_is_not_done_with_that(
    death: Death, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between its two records: that of the mode, and that of what was asked for."""
    wire = death.wire
    node, source = (
        w.ENTRY_OUT.unpack_from(done(wire, w.CREATE, 1, create_body(name))[1])[0] for name in (b"f", b"g")
    )
    mode = Layouts.SETATTR.pack(1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0o6755, 0, 0, 0, 0)
    done(wire, w.SETATTR, node, mode)
    done(wire, w.WRITE, source, write_body(0, b"new"))
    body, asked_of = TAKES_SET_ID[operation], node
    if operation is w.COPY_FILE_RANGE:
        body, asked_of = Layouts.COPY_FILE_RANGE.pack(0, 0, node, 0, 0, 3, 0), source
    log = death.first.fs.log
    append = log.append

    def half(kind: int, *args: object, **more: object) -> object:
        if kind != oplog.SetAttributes.KIND:
            raise OSError(errno.EIO, "killed here")
        return append(kind, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(log, "append", half)
    unique = wire.send(operation, asked_of, body, uid=1000)
    while wire.receive().unique != unique:
        pass
    (again,) = death.dies((unique, operation, asked_of, body))
    assert again.error == 0
    wire = death.wire
    if operation is w.SETXATTR:
        assert wire.ask(w.GETXATTR, node, named(Layouts.GETXATTR, 100, 0, names=b"user.a\0")).body == b"x"
    else:
        content = wire.ask(w.READ, node, read_body(0, 100)).body
        assert content == (bytes(3) if operation is w.FALLOCATE else b"new")


def test_a_write_that_is_to_be_durable_is_so_when_it_is_answered_again(death: Death) -> None:
    wire = death.wire
    node = w.ENTRY_OUT.unpack_from(done(wire, w.CREATE, 1, create_body(b"f", os.O_WRONLY))[1])[0]
    body = Layouts.WRITE.pack(w.DIRECT_HANDLE, 0, 3, 0, 0, os.O_DSYNC, 0) + b"new"
    unique, before = done(wire, w.WRITE, node, body)
    # Here nobody syncs at intervals: it is durable because somebody waited for that.
    (again,) = death.dies((unique, w.WRITE, node, body))
    assert (again.error, again.body) == (0, before)
    assert death.second is not None
    log = death.second.fs.log
    assert log.durable_lsn == log.end
