"""INTERRUPT: who is killed while a request of his waits is let go; others wait on, as on a local filesystem.

The kernel says that some signal has come. Most of them must not break anything off: a runtime that preempts its
threads by signals would see stat(2) fail, and a database takes fsync's EINTR for an I/O error. But who is to die
cannot until the request that was read is answered (the kernel waits for that, uninterruptibly): with a disk that
hangs below the store he would stay for ever. So where SIGKILL is pending for him, which every deadly signal becomes
that dumps no core, the request is answered at once with EINTR, which nobody sees, and its work ends unheard.

Only what changes nothing is let go, and commands: a change that is still to come would come after its caller's end,
and after what others do then. Invariant: a request is answered once. Must not know: what a request asks for.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import Final

import trio

from heliosfs.transport.kernel import wire
from heliosfs.transport.kernel.handlers import Answer, Header
from heliosfs.transport.requests import is_control

_LET_GO: Final = frozenset(
    operation.opcode
    for operation in (
        *(wire.LOOKUP, wire.GETATTR, wire.STATX, wire.READLINK, wire.READ, wire.READDIR, wire.LSEEK),
        *(wire.GETXATTR, wire.LISTXATTR, wire.STATFS, wire.FSYNC, wire.FSYNCDIR, wire.IOCTL),
    )
)
_LOOK_S: Final = 0.1
"""How often it is looked whether somebody who had a signal has had a deadly one since: the kernel tells of one."""
_KILLED: Final = 1 << 8
"""SIGKILL in a mask of /proc/PID/status."""


class Interrupts:
    """The requests that wait for something, and whose callers may have been killed.

    Attributes:
        waiting: By number; each is here from when it first suspends until it has been answered.
    """

    def __init__(self, fd: int, take_back: Callable[[int], None]) -> None:
        """
        Args:
            fd: Where replies go.
            take_back: Uncounts one lookup of a node: the kernel does not see the reply that hands it out.
        """
        self.waiting: dict[int, Header] = {}
        self._fd = fd
        self._take_back = take_back
        self._gone: set[int] = set()
        self._signalled: set[int] = set()
        self._more = trio.Event()

    def begin(self, head: Header) -> None:
        """A request suspends."""
        if head[1] in _LET_GO or (head[1] == wire.WRITE.opcode and is_control(head[3])):
            self.waiting[head[2] & wire.ONCE] = head

    def end(self, head: Header, answer: Answer) -> Answer:
        """A request has its answer; None if it was answered before."""
        number = head[2] & wire.ONCE
        self.waiting.pop(number, None)
        self._signalled.discard(number)
        if number not in self._gone:
            return answer
        self._gone.discard(number)
        if head[1] == wire.LOOKUP.opcode and isinstance(answer, bytes):
            node = wire.ENTRY_OUT.unpack_from(answer)[0]
            if node:
                self._take_back(node)
        return None

    def interrupt(self, head: Header, view: memoryview, end: int) -> Answer:
        """The handler of INTERRUPT: a signal has come for the caller of a request. No reply.

        The kernel sends it once the request was read: one that does not wait has been answered.
        """
        number = wire.Layouts.INTERRUPT.unpack_from(view, wire.BODY)[0] & wire.ONCE
        if number in self.waiting and not self._let_go(number):
            self._signalled.add(number)
            self._more.set()
        return None

    def _let_go(self, number: int) -> bool:
        head = self.waiting[number]
        if not is_dying(head[6]):
            return False
        del self.waiting[number]
        self._gone.add(number)
        with contextlib.suppress(OSError):
            os.write(self._fd, wire.OUT_HEADER.pack(wire.OUT_HEADER.size, -errno.EINTR, head[2]))
        return True

    async def watch(self) -> None:
        """Look again at whom a signal has come for, until they have their answers. Runs as long as the session."""
        while True:
            await self._more.wait()
            self._more = trio.Event()
            while self._signalled:
                await trio.sleep(_LOOK_S)
                self._signalled -= {number for number in self._signalled if self._let_go(number)}


def is_dying(thread: int) -> bool:
    """Whether a thread is only kept alive by the call that it waits in.

    Args:
        thread: Its number where we are; 0: it is outside of our pid namespace, and nothing is known of it.
    """
    if not thread:
        return False
    try:
        status = os.open(f"/proc/{thread}/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        text = os.read(status, 8192)
    finally:
        os.close(status)
    masks = (line.split()[1] for line in text.splitlines() if line.startswith((b"SigPnd:", b"ShdPnd:")))
    return any(int(mask, 16) & _KILLED for mask in masks)
