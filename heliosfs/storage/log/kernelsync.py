"""fdatasync(2) without a thread: the kernel performs it, and an eventfd says when it is through.

The hand-over to a thread and back, each with its wait for the interpreter's lock, takes about as long as a quick
disk takes for the sync itself; a sync on the loop would stop every request for as long as the disk likes. Linux's
asynchronous I/O (io_submit(2), IOCB_CMD_FDSYNC) needs neither: a worker of the kernel syncs, the loop serves on.

That worker is started on the processor that asked, so whoever waits should sleep and not poll. Where syncs have
been quick the loop itself sleeps, for one millisecond at most and until somebody asks it for something: its own way
of sleeping takes 50 us more. Else a task waits, and takes one of the tokens that trio has for threads, by which
others see that somebody works beside the loop.

Invariants: one sync at a time; a file is held by the kernel until its sync is through, so its descriptor may be
closed meanwhile; a sync that has begun is waited for, whatever is cancelled.
Must not know: the log.
"""

from __future__ import annotations

import ctypes
import os
import select
from time import perf_counter
from typing import Final

import trio

_SYSCALLS: Final = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4), "riscv64": (0, 1, 2, 4)}
"""By machine: io_setup, io_destroy, io_submit, io_getevents. Source: asm/unistd.h."""
_FDSYNC: Final = 3
_RESFD: Final = 1

_NAP_MS: Final = 1
_QUICK_S: Final = 600e-6
"""A sync that takes longer is no longer slept through: the loop may have better things to do."""


class _Control(ctypes.Structure):
    """struct iocb of linux/aio_abi.h, little endian."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_uint32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("result_fd", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """struct io_event of the same."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("control", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("more", ctypes.c_int64),
    )


class KernelSync:
    """Syncs one file at a time.

    Attributes:
        naps: How many syncs the loop has slept through.
        waits: How many a task has waited for.
    """

    def __init__(self) -> None:
        """Raises OSError: this system has no asynchronous I/O (ENOSYS, EPERM), or enough of it (EAGAIN)."""
        numbers = _SYSCALLS.get(os.uname().machine)
        if numbers is None or ctypes.sizeof(ctypes.c_long) != 8:
            raise OSError("asynchronous I/O: the numbers of this machine's calls are not known")
        setup, self._destroy, self._submit, self._events = (ctypes.c_long(number) for number in numbers)
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._call.restype = ctypes.c_long
        self._context = ctypes.c_ulong()
        if self._call(setup, ctypes.c_long(1), ctypes.byref(self._context)):
            raise _error()
        self._done = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._control = _Control(opcode=_FDSYNC, flags=_RESFD, result_fd=self._done)
        self._controls = (ctypes.c_void_p * 1)(ctypes.addressof(self._control))
        self._event = _Event()
        self._nap = select.poll()
        self._nap.register(self._done, select.POLLIN)
        self._watched: set[int] = set()
        self._quick = True
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
        self._control.fd = fd
        self._control.data += 1
        if self._call(self._submit, self._context, ctypes.c_long(1), self._controls) != 1:
            return False
        if self._quick and self._watched and self._nap.poll(_NAP_MS) and self._through():
            self.naps += 1
        else:
            await self._wait()
            self.waits += 1
        self._quick = perf_counter() - began < _QUICK_S
        if self._event.result < 0:
            raise OSError(-self._event.result, os.strerror(-self._event.result))
        return True

    async def _wait(self) -> None:
        """Return when the sync has ended."""
        threads = trio.to_thread.current_default_thread_limiter()
        counted = threads.available_tokens > 0
        if counted:
            threads.acquire_on_behalf_of_nowait(self)
        try:
            with trio.CancelScope(shield=True):
                while not self._through():
                    await trio.lowlevel.wait_readable(self._done)
        finally:
            if counted:
                threads.release_on_behalf_of(self)

    def _through(self) -> bool:
        """Whether the sync has ended; then its result is in `_event`."""
        try:
            os.eventfd_read(self._done)
        except BlockingIOError:
            return False
        one = ctypes.c_long(1)
        while self._call(self._events, self._context, ctypes.c_long(0), one, ctypes.byref(self._event), None) == 1:
            # Another one's: whoever waited for that was torn away by an exception.
            if self._event.data == self._control.data:
                return True
        return False

    def close(self) -> None:
        """Give the kernel back what it keeps for this. No sync may be under way. Idempotent."""
        if self._done >= 0:
            self._call(self._destroy, self._context)
            os.close(self._done)
            self._done = -1


def _error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))
