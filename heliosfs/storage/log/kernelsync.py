"""fdatasync(2) without a thread: the kernel performs it, and a descriptor says when it is through.

The hand-over to a thread and back, each with its wait for the interpreter's lock, takes about as long as a quick
disk takes for the sync itself; a sync on the loop would stop every request for as long as the disk likes. An
io_uring needs neither: a worker of the kernel syncs, the loop serves on. Linux's older asynchronous I/O
(io_submit(2)) is 15 us quicker, but the end of a process that has used it takes 36 ms, for which whoever goes on
has to wait; with an io_uring that is 2.

That worker may be started on the processor that asked, so whoever waits should sleep and not poll. Where syncs have
been quick the loop itself sleeps, for one millisecond at most and until somebody asks it for something: its own way
of sleeping takes 50 us more. Else a task waits, and takes one of the tokens that trio has for threads, by which
others see that somebody works beside the loop.

Invariants: one sync at a time; a file is held until its sync is through, so its descriptor may be closed meanwhile
(and its number be another file's: the kernel's worker looks for it when it begins); a sync that has begun is waited
for, whatever is cancelled.
Must not know: the log.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
from time import perf_counter
from typing import Final

import trio

_SETUP: Final = 425
"""io_uring_setup(2), on every architecture: system calls have had the same numbers everywhere since 424."""
_ENTER: Final = 426
_COOPERATIVE: Final = 1 << 8
"""IORING_SETUP_COOP_TASKRUN (Linux 5.19): the kernel does not interrupt us for its own cleaning up."""
_ENTRIES: Final = 4
"""There is one at a time; but whoever waited may have been torn away by an exception."""
_RINGS_AT: Final = 0
_ENTRIES_AT: Final = 0x1000_0000
_FSYNC: Final = 3
_DATASYNC: Final = 1

_NAP_MS: Final = 1
_QUICK_S: Final = 600e-6
"""A sync that takes longer is no longer slept through: the loop may have better things to do."""


class _Parameters(ctypes.Structure):
    """struct io_uring_params of linux/io_uring.h; what is not named here belongs to other modes."""

    _fields_ = (
        ("submissions", ctypes.c_uint32),
        ("completions", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("_others", ctypes.c_uint32 * 7),
        # Offsets in the rings: of those that we submit by, ...
        ("head", ctypes.c_uint32),
        ("tail", ctypes.c_uint32),
        ("_more", ctypes.c_uint32 * 4),
        ("order", ctypes.c_uint32),
        ("_rest", ctypes.c_uint32 * 3),
        # ... and by which we are told.
        ("done_head", ctypes.c_uint32),
        ("done_tail", ctypes.c_uint32),
        ("_done_more", ctypes.c_uint32 * 3),
        ("done", ctypes.c_uint32),
        ("_done_rest", ctypes.c_uint32 * 4),
    )


class _Submission(ctypes.Structure):
    """struct io_uring_sqe of the same."""

    _fields_ = (
        ("opcode", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("priority", ctypes.c_uint16),
        ("fd", ctypes.c_int32),
        ("offset", ctypes.c_uint64),
        ("address", ctypes.c_uint64),
        ("length", ctypes.c_uint32),
        ("fsync_flags", ctypes.c_uint32),
        ("number", ctypes.c_uint64),
        ("_others", ctypes.c_uint64 * 3),
    )


class _Completion(ctypes.Structure):
    """struct io_uring_cqe of the same."""

    _fields_ = (("number", ctypes.c_uint64), ("result", ctypes.c_int32), ("flags", ctypes.c_uint32))


class Ring:
    """An io_uring that syncs files. For one thread.

    Attributes:
        fd: Readable while there is a result.
    """

    def __init__(self) -> None:
        """Raises OSError: this system has none, or lets us have none (ENOSYS, EPERM, EINVAL before Linux 5.19)."""
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._call.restype = ctypes.c_long
        asked = _Parameters(flags=_COOPERATIVE)
        self.fd: int = self._call(ctypes.c_long(_SETUP), ctypes.c_long(_ENTRIES), ctypes.byref(asked))
        if self.fd < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"io_uring: {os.strerror(code)}")
        submissions, completions = asked.submissions, asked.completions
        size = max(asked.order + 4 * submissions, asked.done + ctypes.sizeof(_Completion) * completions)
        try:
            self._rings = mmap.mmap(self.fd, size, offset=_RINGS_AT)
            self._memory = mmap.mmap(self.fd, ctypes.sizeof(_Submission) * submissions, offset=_ENTRIES_AT)
        except OSError:
            os.close(self.fd)
            raise
        self._head, self._tail, self._done_head, self._done_tail = (
            ctypes.c_uint32.from_buffer(self._rings, offset)
            for offset in (asked.head, asked.tail, asked.done_head, asked.done_tail)
        )
        # Both counts are powers of two.
        self._mask, self._done_mask = submissions - 1, completions - 1
        self._submissions = (_Submission * submissions).from_buffer(self._memory)
        self._completions = (_Completion * completions).from_buffer(self._rings, asked.done)
        order = (ctypes.c_uint32 * submissions).from_buffer(self._rings, asked.order)
        for index in range(submissions):
            order[index] = index
            self._submissions[index] = _Submission(opcode=_FSYNC, fsync_flags=_DATASYNC)
        one, none = ctypes.c_long(1), ctypes.c_long(0)
        self._enter = (ctypes.c_long(_ENTER), ctypes.c_long(self.fd), one, none, none, None, none)

    def submit(self, fd: int, number: int) -> bool:
        """Have the kernel sync a file; its result will bear the number. False: nothing was done."""
        tail = self._tail.value
        submission = self._submissions[tail & self._mask]
        submission.fd = fd
        submission.number = number
        # The kernel reads this in the call below, on this processor: no barrier is needed.
        self._tail.value = tail + 1
        if self._call(*self._enter) == 1:
            return True
        self._tail.value = self._head.value
        return False

    def result(self) -> tuple[int, int] | None:
        """(number, 0 or minus errno) of a sync that is through; None: `fd` has not become readable.

        To be called after a system call that has found it readable: what the kernel wrote before, we see then.
        """
        head = self._done_head.value
        if head == self._done_tail.value:
            return None
        completion = self._completions[head & self._done_mask]
        found = completion.number, completion.result
        self._done_head.value = head + 1
        return found

    def close(self) -> None:
        """Give it back. Idempotent."""
        if self.fd >= 0:
            # Views of the memory, which can't be closed before.
            del self._head, self._tail, self._done_head, self._done_tail, self._submissions, self._completions
            self._rings.close()
            self._memory.close()
            os.close(self.fd)
            self.fd = -1


class KernelSync:
    """Syncs one file at a time.

    Attributes:
        naps: How many syncs the loop has slept through.
        waits: How many a task has waited for.
    """

    def __init__(self) -> None:
        """Raises OSError: as Ring."""
        self._ring = Ring()
        self._nap = select.poll()
        self._nap.register(self._ring.fd, select.POLLIN)
        self._watched: set[int] = set()
        self._quick = True
        self._held: dict[int, int] = {}
        """Descriptors of our own, by the number of the sync."""
        self._number = 0
        self._result = 0
        self.naps = 0
        self.waits = 0

    def watch(self, fd: int) -> None:
        """What comes in here ends a sleep of the loop, which sleeps only where somebody has called this."""
        self._watched.add(fd)
        self._nap.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        """It does so no longer. To be called before it is closed; of no effect for what is not watched."""
        if fd in self._watched:
            self._watched.remove(fd)
            self._nap.unregister(fd)

    async def fdatasync(self, fd: int) -> bool:
        """Sync a file. False: it can't be asked for just now, and nothing was done; fdatasync(2) may serve.

        Raises:
            OSError: As fdatasync(2); it must not be tried again.
        """
        began = perf_counter()
        self._number += 1
        try:
            held = os.dup(fd)
        except OSError:
            return False
        if not self._ring.submit(held, self._number):
            os.close(held)
            return False
        self._held[self._number] = held
        if self._quick and self._watched and self._napped() and self._through():
            self.naps += 1
        else:
            await self._wait()
            self.waits += 1
        self._quick = perf_counter() - began < _QUICK_S
        if self._result == -errno.ECANCELED:
            # No sync says this: the kernel had no worker for it, and has not begun it.
            return False
        if self._result < 0:
            raise OSError(-self._result, os.strerror(-self._result))
        return True

    def _napped(self) -> bool:
        """Sleep until a sync has ended or somebody asks for something; whether it was the sync."""
        return any(fd == self._ring.fd for fd, _ in self._nap.poll(_NAP_MS))

    async def _wait(self) -> None:
        """Return when the sync has ended."""
        threads = trio.to_thread.current_default_thread_limiter()
        counted = threads.available_tokens > 0
        if counted:
            threads.acquire_on_behalf_of_nowait(self)
        try:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.wait_readable(self._ring.fd)
                while not self._through():
                    await trio.lowlevel.wait_readable(self._ring.fd)
        finally:
            if counted:
                threads.release_on_behalf_of(self)

    def _through(self) -> bool:
        """Whether the sync has ended; then its result is in `_result`."""
        while (found := self._ring.result()) is not None:
            number, self._result = found
            os.close(self._held.pop(number))
            # Another one's: whoever waited for that was torn away by an exception.
            if number == self._number:
                return True
        return False

    def close(self) -> None:
        """Give the kernel back what it keeps for this. No sync may be under way. Idempotent."""
        self._ring.close()
        for held in self._held.values():
            os.close(held)
        self._held.clear()
