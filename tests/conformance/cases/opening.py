"""open(2) and close(2)."""

from __future__ import annotations

import os
import shutil

from tests.conformance.calls import Calls, case, root_case

CREATE = os.O_CREAT | os.O_WRONLY


@case
def makes_a_file(c: Calls) -> None:
    with c.watch("."):
        os.close(c.open("f", CREATE, 0o640))
    c.stat("f")
    with c.watch(".", "f"):
        os.close(c.open("f", CREATE, 0o600))
    c.stat("f")


@case
def exclusive(c: Calls) -> None:
    c.create("f")
    c.open("f", CREATE | os.O_EXCL)
    c.mkdir("d")
    c.open("d", CREATE | os.O_EXCL)
    c.symlink("nowhere", "dangling")
    c.open("dangling", CREATE | os.O_EXCL)
    c.symlink("f", "link")
    c.open("link", CREATE | os.O_EXCL)
    c.mkfifo("p")
    c.open("p", CREATE | os.O_EXCL)
    c.listdir()


@case
def through_a_dangling_link(c: Calls) -> None:
    c.symlink("target", "link")
    os.close(c.open("link", CREATE, 0o644))
    c.stat("target")
    c.lstat("link")
    c.symlink("no/such/directory", "deep")
    c.open("deep", CREATE)


@case
def absent(c: Calls) -> None:
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_TRUNC | os.O_WRONLY):
        c.open("absent", flags)
        c.open("absent/f", flags | os.O_CREAT)
    c.open("", os.O_RDONLY)
    c.open("", CREATE)


@case
def directories_refuse_writers(c: Calls) -> None:
    c.mkdir("d")
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_TRUNC, CREATE, os.O_RDWR | os.O_TRUNC, os.O_RDONLY | os.O_CREAT):
        c.open("d", flags)
    descriptor = c.open("d", os.O_RDONLY | os.O_DIRECTORY)
    c.record("read", ("d",), lambda: os.read(descriptor, 10))
    c.record("write", ("d",), lambda: os.write(descriptor, b"x"))
    c.record("ftruncate", ("d",), lambda: os.ftruncate(descriptor, 0))
    c.record("fsync", ("d",), lambda: os.fsync(descriptor))


@case
def o_directory_and_o_nofollow(c: Calls) -> None:
    c.create("f")
    c.mkdir("d")
    c.symlink("d", "to_d")
    c.symlink("f", "to_f")
    c.open("f", os.O_DIRECTORY)
    c.open("to_f", os.O_DIRECTORY)
    c.open("to_d", os.O_DIRECTORY)
    c.open("to_d", os.O_DIRECTORY | os.O_NOFOLLOW)
    c.open("to_f", os.O_NOFOLLOW)
    c.open("to_f", os.O_NOFOLLOW | os.O_PATH)
    c.open("d/../f", os.O_NOFOLLOW)
    c.open("to_d/.", os.O_NOFOLLOW)


@case
def truncating(c: Calls) -> None:
    c.create("f", b"some content")
    with c.watch("f", "."):
        os.close(c.open("f", os.O_WRONLY | os.O_TRUNC))
    c.stat("f")
    with c.watch("f"):
        os.close(c.open("f", os.O_WRONLY | os.O_TRUNC))
    c.create("g", b"more")
    os.close(c.open("g", os.O_RDONLY))
    c.content("g")
    os.close(c.open("g", CREATE | os.O_TRUNC))
    c.content("g")


@case
def read_only_mode_with_a_writing_descriptor(c: Calls) -> None:
    descriptor = c.open("f", os.O_CREAT | os.O_RDWR, 0)
    c.record("write", (), lambda: os.write(descriptor, b"still"))
    c.record("pread", (), lambda: os.pread(descriptor, 10, 0))
    c.stat("f")
    os.close(descriptor)
    c.open("f", os.O_RDONLY)
    c.open("f", os.O_WRONLY)


@case
def wrong_direction(c: Calls) -> None:
    c.create("f", b"abc")
    reading = c.open("f", os.O_RDONLY)
    writing = c.open("f", os.O_WRONLY)
    c.record("write", ("reading",), lambda: os.write(reading, b"x"))
    c.record("ftruncate", ("reading",), lambda: os.ftruncate(reading, 0))
    c.record("read", ("writing",), lambda: os.read(writing, 3))
    path_only = c.open("f", os.O_PATH)
    c.record("read", ("path",), lambda: os.read(path_only, 3))
    c.record("fchmod", ("path",), lambda: os.fchmod(path_only, 0o600))
    c.record("fstat", ("path",), lambda: os.fstat(path_only).st_size)
    c.content("f")


@case
def not_a_directory(c: Calls) -> None:
    c.create("f")
    for path in ("f/", "f/x", "f/..", "f/.", "f/x/y"):
        c.open(path)
        c.open(path, CREATE)


@case
def trailing_slash(c: Calls) -> None:
    c.mkdir("d")
    c.open("d/", os.O_RDONLY)
    c.open("new/", CREATE)
    c.open("new/", CREATE | os.O_EXCL)
    c.symlink("d", "link")
    c.open("link/", os.O_RDONLY)
    c.symlink("nothing", "dangling")
    c.open("dangling/", CREATE)


@case
def fifo_without_a_reader(c: Calls) -> None:
    c.mkfifo("p")
    c.open("p", os.O_WRONLY | os.O_NONBLOCK)
    reader = c.open("p", os.O_RDONLY | os.O_NONBLOCK)
    writer = c.open("p", os.O_WRONLY | os.O_NONBLOCK)
    c.record("write", (), lambda: os.write(writer, b"through"))
    c.record("read", (), lambda: os.read(reader, 10))
    c.stat("p")


@case
def unlinked_while_open(c: Calls) -> None:
    c.create("f", b"content")
    descriptor = c.open("f", os.O_RDWR)
    with c.watch("f", "."):
        c.unlink("f")
    c.stat(descriptor)
    c.record("read", (), lambda: os.pread(descriptor, 10, 0))
    c.record("write", (), lambda: os.pwrite(descriptor, b"CON", 0))
    c.record("read", (), lambda: os.pread(descriptor, 10, 0))
    c.record("ftruncate", (), lambda: os.ftruncate(descriptor, 3))
    c.record("fchmod", (), lambda: os.fchmod(descriptor, 0o600))
    c.record("fsync", (), lambda: os.fsync(descriptor))
    c.record("setxattr", (), lambda: os.setxattr(descriptor, b"user.a", b"b"))
    c.record("getxattr", (), lambda: os.getxattr(descriptor, b"user.a"))
    c.stat(descriptor)
    c.create("f", b"another")
    c.record("read", (), lambda: os.pread(descriptor, 10, 0))
    c.linkat(f"/proc/self/fd/{descriptor}", "again", 0x400)
    c.listdir()


@case
def renamed_while_open(c: Calls) -> None:
    c.create("f", b"one")
    c.create("g", b"two")
    one, two = c.open("f", os.O_RDWR), c.open("g", os.O_RDWR)
    c.rename("f", "g")
    c.record("read", ("one",), lambda: os.read(one, 10))
    c.record("read", ("two",), lambda: os.read(two, 10))
    c.stat(one)
    c.stat(two)
    c.record("write", (), lambda: os.pwrite(one, b"ONE", 0))
    c.content("g")


@case
def directory_removed_while_open(c: Calls) -> None:
    c.mkdir("d")
    descriptor = c.open("d", os.O_RDONLY)
    c.rmdir("d")
    c.stat(descriptor)
    c.record("listdir", (), lambda: os.listdir(descriptor))
    c.record("create", (), lambda: os.open("f", CREATE, 0o644, dir_fd=descriptor))
    c.record("mkdir", (), lambda: os.mkdir("e", dir_fd=descriptor))
    c.record("stat", (), lambda: os.stat("f", dir_fd=descriptor))
    c.record("symlink", (), lambda: os.symlink("x", "l", dir_fd=descriptor))


@case
def current_directory_removed(c: Calls) -> None:
    c.mkdir("d")
    c.chdir("d")
    c.rmdir("../d")
    c.open("f", CREATE)
    c.record("getcwd", (), os.getcwd)
    c.listdir(".")
    c.record("stat", (".",), lambda: os.stat(".").st_nlink)


@case
def umask_is_taken_off(c: Calls) -> None:
    for mask in (0, 0o22, 0o77, 0o777):
        os.umask(mask)
        os.close(c.open(f"f{mask}", CREATE, 0o7666))
        c.mkdir(f"d{mask}", 0o777)
        c.mkfifo(f"p{mask}", 0o666)
        os.umask(0)
        for kind in "fdp":
            c.lstat(f"{kind}{mask}")


@case
def o_tmpfile_like_names(c: Calls) -> None:
    for name in (b"\xff\xfe", b"a\nb", b" ", b"*", b"\\", b"\x01", "ü".encode(), b"..."):
        c.create(name, name)
        c.content(name)
    c.listdir()


@case
def o_append_and_o_sync(c: Calls) -> None:
    descriptor = c.open("f", CREATE | os.O_APPEND)
    os.write(descriptor, b"one ")
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, b"two ")
    c.record("lseek", (), lambda: os.lseek(descriptor, 0, os.SEEK_CUR))
    c.record("pwrite", (), lambda: os.pwrite(descriptor, b"three", 0))
    c.content("f")
    for flag in (os.O_SYNC, os.O_DSYNC):
        synced = c.open("s", CREATE | flag)
        c.record("write", (), lambda synced=synced: os.write(synced, b"synced"))
    c.content("s")


@root_case
def permission_to_open(c: Calls) -> None:
    for mode in (0o000, 0o400, 0o200, 0o600, 0o040, 0o020, 0o060, 0o004, 0o002, 0o006, 0o777):
        path = f"f{mode:03o}"
        c.create(path, b"x")
        c.chown(path, 1000, 1000)
        c.chmod(path, mode)
        for uid, gid in ((1000, 1000), (1001, 1000), (1001, 1001)):
            with c.user(uid, gid):
                for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
                    c.open(path, flags)


@root_case
def permission_to_create(c: Calls) -> None:
    for mode in (0o777, 0o755, 0o733, 0o311, 0o555, 0o666):
        path = f"d{mode:03o}"
        c.mkdir(path)
        c.chown(path, 1000, 1000)
        c.chmod(path, mode)
        for uid in (1000, 1001):
            with c.user(uid):
                c.open(f"{path}/f{uid}", CREATE)
                c.mkdir(f"{path}/d{uid}")
                c.symlink("x", f"{path}/l{uid}")
                c.mkfifo(f"{path}/p{uid}")
                c.listdir(path)
                c.stat(f"{path}/f{uid}")


@root_case
def o_noatime_is_the_owners(c: Calls) -> None:
    c.create("f", b"x", 0o666)
    c.chown("f", 1000, 1000)
    for uid in (1000, 1001):
        with c.user(uid):
            c.open("f", os.O_RDONLY | os.O_NOATIME)


@case
def a_running_program(c: Calls) -> None:
    shutil.copy("/bin/sleep", "p")
    writing = c.open("p", os.O_WRONLY)
    c.record("spawn", (), lambda: os.posix_spawn("./p", ["p", "60"], {}))
    os.close(writing)
    running = os.posix_spawn("./p", ["p", "60"], {})
    try:
        # The child has become the program when its own name says so.
        while os.path.basename(os.readlink(f"/proc/{running}/exe")) != "p":
            os.sched_yield()
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            c.open("p", flags)
        c.truncate("p", 0)
        c.chmod("p", 0o755)
        shutil.copy("/bin/sleep", "q")
        c.rename("q", "p")
        c.open("p", os.O_WRONLY)
        c.record("running", (), lambda: os.waitpid(running, os.WNOHANG))
        c.unlink("p")
    finally:
        os.kill(running, 9)
        os.waitpid(running, 0)
