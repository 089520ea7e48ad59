"""mkfifo(3), mknod(2), sockets."""

from __future__ import annotations

import os
import socket
import stat

from tests.conformance.calls import Calls, case, root_case


@case
def fifo(c: Calls) -> None:
    with c.watch("."):
        c.mkfifo("p", 0o640)
    c.stat("p")
    c.mkfifo("p")
    for path in ("", "absent/p", "p/x", "q/", "."):
        c.mkfifo(path)
    c.mknod("n", 0o600 | stat.S_IFIFO)
    c.stat("n")


@case
def regular_by_mknod(c: Calls) -> None:
    c.mknod("f", 0o640 | stat.S_IFREG)
    c.stat("f")
    c.content("f")
    c.mknod("g", 0o600)
    c.stat("g")
    c.mknod("d", 0o755 | stat.S_IFDIR)
    c.mknod("l", 0o755 | stat.S_IFLNK)
    c.mknod("f", 0o640 | stat.S_IFREG)


@case
def sockets(c: Calls) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        c.record("bind", (), lambda: server.bind("s"))
        c.lstat("s")
        server.listen()
        c.record("connect", (), lambda: client.connect("s"))
        c.record("open", ("s",), lambda: os.open("s", os.O_RDONLY))
        c.record("bind again", (), lambda: socket.socket(socket.AF_UNIX).bind("s"))
        connection, _ = server.accept()
        client.sendall(b"through")
        c.record("recv", (), lambda: connection.recv(10))
        connection.close()
        c.rename("s", "t")
        c.record("connect", (), lambda: socket.socket(socket.AF_UNIX).connect("t"))
        c.unlink("t")
        c.record("connect", (), lambda: socket.socket(socket.AF_UNIX).connect("t"))
    c.mknod("u", 0o600 | stat.S_IFSOCK)
    c.lstat("u")


@case
def devices_are_roots(c: Calls) -> None:
    if os.geteuid():
        c.mknod("c", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        c.mknod("b", 0o600 | stat.S_IFBLK, os.makedev(7, 0))
    c.listdir()


@root_case
def devices(c: Calls) -> None:
    for name, kind, device in (
        ("null", stat.S_IFCHR, os.makedev(1, 3)),
        ("zero", stat.S_IFCHR, os.makedev(1, 5)),
        ("large", stat.S_IFCHR, os.makedev(4095, 1048575)),
        ("block", stat.S_IFBLK, os.makedev(250, 250)),
        ("whiteout", stat.S_IFCHR, 0),
    ):
        c.mknod(name, 0o666 | kind, device)
        c.lstat(name)
    descriptor = c.open("zero", os.O_RDWR)
    c.record("read", (), lambda: os.read(descriptor, 4))
    descriptor = c.open("null", os.O_RDWR)
    c.record("read", (), lambda: os.read(descriptor, 4))
    c.record("write", (), lambda: os.write(descriptor, b"gone"))
    c.open("large", os.O_RDWR)
    c.stat("null")
    c.chown("null", 1000, 1000)
    c.chmod("null", 0o600)
    c.lstat("null")
    c.rename("null", "zero")
    c.lstat("zero")
    c.unlink("zero")
    c.listdir()
