"""When no worker can serve: every request is answered with EIO, also what was asked before."""

from __future__ import annotations

import errno
import socket
import struct
import threading

from heliosfs.daemon.refusing import refuse_all

HEAD = struct.Struct("<IIQQIIII")
REPLY = struct.Struct("<IiQ")
RESEND = REPLY.pack(16, 7, 0)
LOOKUP, FORGET, INTERRUPT, READ = 1, 2, 36, 15


def request(opcode: int, unique: int) -> bytes:
    return HEAD.pack(HEAD.size, opcode, unique, 1, 0, 0, 0, 0)


def test_every_request_is_refused_until_the_mount_ends() -> None:
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kernel.settimeout(20)
    ours.setblocking(False)
    thread = threading.Thread(target=refuse_all, args=([ours.fileno()], []))
    thread.start()
    assert kernel.recv(100) == RESEND
    for opcode, unique in ((LOOKUP, 2), (FORGET, 4), (READ, 6 | 1 << 63), (INTERRUPT, 9), (LOOKUP, 10)):
        kernel.send(request(opcode, unique))
    answers = [REPLY.unpack(kernel.recv(100)) for _ in range(3)]
    assert answers == [(16, -errno.EIO, 2), (16, -errno.EIO, 6 | 1 << 63), (16, -errno.EIO, 10)]
    kernel.close()
    thread.join(20)
    assert not thread.is_alive()
    ours.close()
