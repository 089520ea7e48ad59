"""Requests to a FUSE session as no kernel would send them, and as one might: from a seed, every operation.

Each is built from its operation's layout, with fields that are likely, extreme or at random, with names that are
whole, without an end, empty, too long or have a slash in them, with data that is shorter or longer than is said;
then, sometimes, cut off or lengthened. Must not know: what is answered.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from heliosfs.control import ioctl
from heliosfs.transport.kernel import wire as w

_NAMED: Final = {
    operation.opcode: count
    for count, operations in (
        (
            1,
            (w.LOOKUP, w.MKNOD, w.MKDIR, w.UNLINK, w.RMDIR, w.LINK, w.CREATE, w.TMPFILE, w.GETXATTR, w.REMOVEXATTR),
        ),
        (2, (w.SYMLINK, w.RENAME, w.RENAME2)),
    )
    for operation in operations
}
_SIZED: Final = {w.WRITE.opcode: 2, w.SETXATTR.opcode: 0, w.IOCTL.opcode: 4, w.NOTIFY_REPLY.opcode: 2}
"""Operations with data behind their layout, and which field says how many bytes."""
_NODE_FIELDS: Final = {
    w.LINK.opcode: (0,),
    w.RENAME.opcode: (0,),
    w.RENAME2.opcode: (0,),
    w.COPY_FILE_RANGE.opcode: (2,),
    w.COPY_FILE_RANGE_64.opcode: (2,),
}
_SMALL: Final = (0, 1, 2, 3, 5, 7, 8, 16, 255, 256, 1024, 4095, 4096, 4097, 65_536)
_NAMES: Final = (
    *(
        b"a",
        b"b",
        b"c",
        b"d",
        b"e",
        b"f",
        b"link",
        b".",
        b"..",
        b"",
        b"/",
        b"a/b",
        b"\xff\xfe",
        b"x" * 255,
        b"x" * 256,
    ),
    *(b".helios", b"ctl", b"status", b"checkpoint", b"restore", b"snapshots", b"branches", b"latest", b"history"),
    *(b"user.a", b"user.helios.root", b"user.helios.checkpoint", b"security.capability", b"trusted.x", b"user."),
    *(b"system.posix_acl_access", b"system.posix_acl_default", b"y" * 5000, b"no such name"),
)
_DATA: Final = (
    *(b"", b"data", b"checkpoint v1", b"restore v1\n", b"ls", b"status", b"'", b"\0" * 40, b"\xff" * 300),
    *(bytes.fromhex("02000000 01000600ffffffff 04000400ffffffff 20000400ffffffff"), b"z" * 5000),
)
FATAL: Final = frozenset((w.INIT.opcode, w.DESTROY.opcode))


class Message(NamedTuple):
    """One request: the header says `told` bytes, and there are `len(body)` behind it."""

    opcode: int
    node: int
    body: bytes
    told: int
    uid: int
    whole: bool
    """As a kernel would send it, as far as lengths go."""


class RandomRequests:
    """Makes one after the other.

    Attributes:
        nodes: What requests are about, most of the time; the caller adds what it is given.
    """

    def __init__(self, dice: random.Random, *, connection: int) -> None:
        """
        Args:
            connection: Flags that were agreed on.
        """
        self._dice = dice
        self._extended = bool(connection & w.Flag.SETXATTR_EXT)
        self.nodes: list[int] = [1]

    def next(self, operations: Sequence[w.Operation] = w.OPERATIONS) -> Message:
        """Any request but INIT."""
        dice = self._dice
        operation = dice.choice(operations)
        if dice.random() < 0.02:
            body = dice.randbytes(dice.randrange(100))
            opcode = dice.choice((0, 7, 19, 48, 49, 54, 63, 64, 255, 4096, (1 << 32) - 1))
            return Message(opcode, self._node(), body, w.BODY + len(body), 0, True)
        body, whole = self._body(operation)
        damage: tuple[Callable[[bytes], bytes], ...] = (
            lambda data: data[: dice.randrange(len(data) + 1)],
            lambda data: data + dice.randbytes(dice.choice((1, 8, 4096))),
            lambda data: dice.randbytes(len(data)),
            lambda data: data[:-1],
        )
        if dice.random() < 0.25:
            whole = False
            body = dice.choice(damage)(body)
        told = w.BODY + len(body)
        if dice.random() < 0.03:
            whole = False
            told = dice.choice((0, 1, told - 1, told + 1, told + 4096, (1 << 32) - 1))
        return Message(operation.opcode, self._node(), body, max(told, 0), dice.choice((0, 0, 1000)), whole)

    def _node(self) -> int:
        dice = self._dice
        if dice.random() < 0.9:
            return dice.choice(self.nodes)
        return dice.choice((0, 2, dice.randrange(1 << 64), dice.choice(self.nodes) + (1 << 40), (1 << 64) - 1))

    def _number(self, bits: int) -> int:
        dice = self._dice
        kind = dice.random()
        if kind < 0.6:
            return dice.choice(_SMALL) & (1 << bits) - 1
        if kind < 0.8:
            return dice.choice((1 << bits, 1 << (bits - 1))) - dice.choice((1, 2, 4096))
        return dice.randrange(1 << bits)

    def _body(self, operation: w.Operation) -> tuple[bytes, bool]:
        dice = self._dice
        opcode = operation.opcode
        layout = operation.layout
        if opcode == w.SETXATTR.opcode and self._extended:
            layout = w.Layouts.SETXATTR_EXT
        fields = [self._number(64 if kind == "Q" else 32) for kind in layout.format.lstrip("=")]
        for at in _NODE_FIELDS.get(opcode, ()):
            fields[at] = self._node()
        whole = True
        behind = b""
        if opcode == w.BATCH_FORGET.opcode:
            pairs = [(dice.choice((0, 1, 1 << 63, dice.randrange(1 << 64))), self._number(64)) for _ in range(3)]
            behind = b"".join(w.Layouts.FORGET_ONE.pack(*pair) for pair in pairs)
            fields[0] = dice.choice((0, 1, 3, 4, (1 << 32) - 1))
        for _ in range(_NAMED.get(opcode, 0) or opcode == w.SETXATTR.opcode):
            behind += dice.choice(_NAMES) + (b"\0" if dice.random() < 0.95 else b"")
        if opcode in _SIZED:
            data = dice.choice(_DATA)
            if opcode == w.IOCTL.opcode and dice.random() < 0.7:
                fields[2], fields[5] = ioctl.NUMBER, ioctl.SIZE
                data = bytes(ioctl.request(data))
            behind += data
            lie = dice.random() < 0.1
            whole = not lie
            fields[_SIZED[opcode]] = self._number(32) if lie else len(data)
        return layout.pack(*fields) + behind, whole
