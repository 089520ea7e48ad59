"""What a transport cannot do, each with its errno: docs/posix.md lists the same. And what lies at the edges."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from pathlib import Path

import pytest

from tests.support.mounts import MountedStore, run
from tests.support.versions import control

pytestmark = pytest.mark.mounted
_libc = ctypes.CDLL(None, use_errno=True)
SEEK_DATA, SEEK_HOLE = 3, 4
AT_SYMLINK_FOLLOW = 0x400


def failed(result: int) -> int:
    """The errno of a call that returned -1, else 0."""
    return ctypes.get_errno() if result < 0 else 0


@pytest.fixture
def opened(branch: Path) -> int:
    """An open file with a hole in it."""
    descriptor = os.open(branch / "f", os.O_CREAT | os.O_RDWR)
    os.write(descriptor, b"x" * 4096)
    os.ftruncate(descriptor, 1 << 20)
    return descriptor


def test_fallocate(opened: int, transport: str) -> None:
    """EOPNOTSUPP through pyfuse3, where the C library's posix_fallocate writes instead.

    Through our own session what the kernel's FUSE lets pass: no COLLAPSE, INSERT, UNSHARE.
    """
    passed = () if transport == "pyfuse3" else (0, 1, 3, 16)
    for mode in (0, 1, 2, 3, 8, 16, 32, 64):
        code = failed(_libc.fallocate(opened, mode, ctypes.c_long(0), ctypes.c_long(4096)))
        assert code == (0 if mode in passed else errno.EOPNOTSUPP), mode
    os.posix_fallocate(opened, 0, 2 << 20)
    assert os.fstat(opened).st_size == 2 << 20
    os.close(opened)


def test_whether_holes_are_found(opened: int, transport: str) -> None:
    """Without LSEEK (pyfuse3) the kernel says that all is data, as POSIX allows."""
    assert os.lseek(opened, 0, SEEK_DATA) == 0
    assert os.lseek(opened, 0, SEEK_HOLE) == (1 << 20 if transport == "pyfuse3" else 4096)
    with pytest.raises(OSError) as raised:
        os.lseek(opened, 1 << 20, SEEK_DATA)
    assert raised.value.errno == errno.ENXIO
    os.close(opened)


def test_copy_file_range_and_reflinks(branch: Path, opened: int) -> None:
    """The kernel copies through its page cache; a reflink can't be had."""
    target = os.open(branch / "g", os.O_CREAT | os.O_RDWR)
    copied = 0
    while count := os.copy_file_range(opened, target, 1 << 20, offset_src=copied):
        copied += count
    assert os.pread(target, 1 << 20, 0) == b"x" * 4096 + bytes((1 << 20) - 4096)
    assert run("cp", "--reflink=always", "f", "h", cwd=branch, check=False).returncode != 0
    run("cp", "--reflink=auto", "f", "h", cwd=branch)
    os.close(target)
    os.close(opened)


def test_o_tmpfile(branch: Path, transport: str) -> None:
    """EOPNOTSUPP through pyfuse3: programs fall back to a name that they unlink."""
    if transport == "pyfuse3":
        with pytest.raises(OSError) as raised:
            os.open(branch, os.O_TMPFILE | os.O_RDWR)
        assert raised.value.errno == errno.EOPNOTSUPP
        return
    descriptor = os.open(branch, os.O_TMPFILE | os.O_RDWR)
    os.write(descriptor, b"unnamed")
    assert os.listdir(branch) == []
    source, target = b"/proc/self/fd/%d" % descriptor, os.fsencode(branch / "named")
    assert failed(_libc.linkat(-100, source, -100, target, AT_SYMLINK_FOLLOW)) == 0
    os.close(descriptor)
    assert (branch / "named").read_bytes() == b"unnamed"


def test_o_direct(branch: Path) -> None:
    """Taken or refused by the kernel, never wrong."""
    (branch / "f").write_bytes(b"d" * 8192)
    try:
        descriptor = os.open(branch / "f", os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        assert error.errno == errno.EINVAL
        return
    with mmap.mmap(-1, 8192) as buffer:
        assert os.readv(descriptor, [buffer]) == 8192
        assert buffer[:] == b"d" * 8192
    os.close(descriptor)


def test_the_umask_limits_what_a_default_list_gives(branch: Path, transport: str) -> None:
    """Through pyfuse3: libfuse has the kernel take it off before we see the request. Elsewhere it is ignored."""
    entries = ((0x01, 7, -1), (0x02, 7, 1001), (0x04, 7, -1), (0x10, 7, -1), (0x20, 7, -1))
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    os.setxattr(branch, b"system.posix_acl_default", value)
    before = os.umask(0o027)
    try:
        (branch / "d").mkdir()
    finally:
        os.umask(before)
    assert oct((branch / "d").stat().st_mode) == oct(0o40750 if transport == "pyfuse3" else 0o40777)
    assert os.getxattr(branch / "d", b"system.posix_acl_default") == value


def test_atime_is_not_kept(branch: Path) -> None:
    """It shows mtime until somebody sets it; reading does not move it."""
    path = branch / "f"
    path.write_bytes(b"x")
    os.utime(path, ns=(5, 10**18))
    path.read_bytes()
    assert os.stat(path).st_atime_ns == 5
    path.write_bytes(b"y")
    (branch / "g").write_bytes(b"x")
    found = os.stat(branch / "g")
    assert found.st_atime_ns == found.st_mtime_ns


def test_far_times_are_clamped(branch: Path) -> None:
    """Nanoseconds since 1970 in 64 bits: 1677 to 2262. Beyond, the nearest; no error."""
    path = branch / "f"
    path.write_bytes(b"x")
    for seconds in (10**11, -(10**11), 2**62, 9_223_372_037, -9_223_372_037):
        os.utime(path, (seconds, seconds))
        assert abs(os.stat(path).st_mtime_ns) <= 1 << 63
    os.utime(path, ns=(1, 2))
    assert os.stat(path).st_mtime_ns == 2


def test_sizes_up_to_the_last(branch: Path) -> None:
    """A file may have any size that off_t has; beyond is EFBIG or EINVAL."""
    path = branch / "f"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    largest = (1 << 63) - 1
    try:
        os.ftruncate(descriptor, largest)
    except OSError as error:
        assert error.errno == errno.EFBIG
        largest = (1 << 53) - 1
        os.ftruncate(descriptor, largest)
    assert os.fstat(descriptor).st_size == largest
    assert os.pwrite(descriptor, b"far", largest - 8192) == 3
    assert os.pread(descriptor, 5, largest - 8193) == b"\0far\0"
    with pytest.raises(OSError) as raised:
        os.pwrite(descriptor, b"x" * 10, (1 << 63) - 5)
        os.pwrite(descriptor, b"x", (1 << 63) - 1)
    assert raised.value.errno in (errno.EFBIG, errno.EINVAL)
    os.ftruncate(descriptor, 0)
    os.close(descriptor)
    assert path.read_bytes() == b""


def test_xattr_sizes(branch: Path) -> None:
    """One value of 64 KiB (the kernel's E2BIG beyond), 1 MiB in all (ENOSPC); lists beyond 64 KiB are E2BIG."""
    path = branch / "f"
    path.write_bytes(b"x")
    os.setxattr(path, b"user.large", b"v" * 65536)
    assert os.getxattr(path, b"user.large") == b"v" * 65536
    with pytest.raises(OSError) as raised:
        os.setxattr(path, b"user.larger", b"v" * 65537)
    assert raised.value.errno == errno.E2BIG
    with pytest.raises(OSError) as raised:
        for number in range(40):
            os.setxattr(path, b"user.n%d" % number, b"v" * 65536)
    assert raised.value.errno == errno.ENOSPC
    for name in os.listxattr(path):
        os.removexattr(path, name)
    assert os.listxattr(path) == []


def test_names_of_every_byte(branch: Path) -> None:
    """All but slash and NUL."""
    names = [bytes([number]) for number in range(1, 256) if number not in (ord("/"), ord("."))]
    for name in names:
        os.close(os.open(os.fsencode(branch) + b"/" + name, os.O_CREAT | os.O_WRONLY))
    assert sorted(os.listdir(os.fsencode(branch))) == names


def test_ioctl(opened: int) -> None:
    """ENOTTY, as for every unknown one."""
    with pytest.raises(OSError) as raised:
        fcntl.ioctl(opened, 0x80086601)
    assert raised.value.errno in (errno.ENOTTY, errno.ENOSYS, errno.EOPNOTSUPP)
    os.close(opened)


def test_a_control_directory_changes_no_inode_number(branch: Path) -> None:
    """Looked up or not, the branch's root is the same for every process."""
    assert control(branch).is_dir()
    done = run("python3", "-c", "import os; print(os.stat('.').st_ino)", cwd=branch)
    assert int(done.stdout) == os.stat(branch).st_ino


@pytest.mark.skipif(os.geteuid() != 0, reason="device nodes are root's")
def test_devices_and_set_id_programs_work(shared: MountedStore, branch: Path) -> None:
    """Mounted by root, as mount(8) has it for every other filesystem."""
    os.mknod(branch / "null", 0o20666, os.makedev(1, 3))
    (branch / "null").write_bytes(b"gone")
    assert (branch / "null").read_bytes() == b""
    run("cp", "/usr/bin/id", branch / "id")
    shared.point.chmod(0o755)
    os.chown(branch / "id", 1234, 1234)
    os.chmod(branch / "id", 0o4755)
    assert run(branch / "id", "-u").stdout.strip() == "1234"
