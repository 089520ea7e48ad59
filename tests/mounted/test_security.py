"""Users who share a mount: what is not theirs they neither use nor see, on whatever way they come."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounts import MountedStore
from tests.support.otherprocess import OtherProcess
from tests.support.versions import checkpoint, child, control, ctl, snapshots

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="other users' processes take root"),
]

AGENT, THIEF = 1234, 4321
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def agents(branch: Path, other: Callable[..., OtherProcess]) -> tuple[Path, OtherProcess]:
    """(branch of AGENT's with a sibling full of secrets, AGENT's process in it)."""
    for name, owner in (("agent", AGENT), ("victim", THIEF)):
        child(branch, name).parent.joinpath(name).mkdir()
        os.chown(child(branch, name), owner, owner)
    victim = child(branch, "victim")
    (victim / "secret").write_bytes(b"secret")
    (victim / "secret").chmod(0o600)
    checkpoint(victim, b"secret-plan")
    checkpoint(branch, b"main-plan")
    return child(branch, "agent"), other(uid=AGENT, cwd=child(branch, "agent"))


def refused(call: Callable[[], object]) -> int:
    """The errno of a call that must fail."""
    with pytest.raises(OSError) as raised:
        call()
    return raised.value.errno or 0


def test_control_is_its_owners_alone(branch: Path, other: Callable[..., OtherProcess]) -> None:
    """A stranger on a mount with allow_other, where the tree itself is open to all."""
    branch.chmod(0o777)
    (branch / "open").write_bytes(b"x")
    (branch / "open").chmod(0o666)
    checkpoint(branch, b"v1")
    before = snapshots(branch)
    thief = other(uid=THIEF, cwd=branch)
    for name in ("", "snapshots", "branches", "ctl", "status", "snapshots/v1", "snapshots/latest"):
        path = f".helios/{name}"
        assert refused(lambda path=path: thief.listdir(path)) == errno.EACCES, name
    for name in ("checkpoint", "restore", "ctl", "status", "stats", "log"):
        path = f".helios/{name}"
        assert refused(lambda path=path: thief.open(path, os.O_RDONLY)) == errno.EACCES
        assert refused(lambda path=path: thief.open(path, os.O_WRONLY)) == errno.EACCES
        assert refused(lambda path=path: thief.utime(path)) == errno.EACCES
    assert refused(lambda: thief.mkdir(".helios/snapshots/x")) == errno.EACCES
    assert refused(lambda: thief.mkdir(".helios/branches/x")) == errno.EACCES
    assert refused(lambda: thief.rmdir(".helios/snapshots/v1")) == errno.EACCES
    for target in (".", "open"):
        for name, value in (("checkpoint", b"t"), ("branch", b"t"), ("restore", b"v1")):
            call = lambda target=target, name=name, value=value: thief.setxattr(  # noqa: E731
                target, f"user.helios.{name}", value
            )
            assert refused(call) == errno.EACCES
            got = lambda target=target, name=name: thief.getxattr(target, f"user.helios.{name}")  # noqa: E731
            assert refused(got) == errno.EACCES
    assert snapshots(branch) == before and not os.listdir(control(branch, "branches"))


def test_an_agent_uses_his_own_branch(agents: tuple[Path, OtherProcess]) -> None:
    path, agent = agents
    descriptor = agent.open(".helios/checkpoint", os.O_WRONLY)
    agent.write(descriptor, b"mine")
    agent.mkdir(".helios/branches/try")
    assert agent.listdir(".helios/branches") == ["try"]
    agent.rmdir(".helios/branches/try")
    assert snapshots(path) == ["base", "mine"]


def test_no_path_name_or_link_leads_out_of_a_branch(agents: tuple[Path, OtherProcess], branch: Path) -> None:
    _, agent = agents
    victim = os.fspath(child(branch, "victim"))
    for path in ("..", "../victim", "../victim/secret", "../../snapshots", "../../ctl", victim, f"{victim}/secret"):
        assert refused(lambda path=path: agent.listdir(path)) in (errno.EACCES, errno.ENOTDIR), path
        assert refused(lambda path=path: agent.open(path, os.O_RDONLY)) == errno.EACCES or path == "..", path
    agent.symlink("../victim/secret", "near")
    agent.symlink(f"{victim}/secret", "far")
    for name in ("near", "far"):
        assert refused(lambda name=name: agent.open(name, os.O_RDONLY)) == errno.EACCES
    agent.mkdir("mine")
    for target in (f"{victim}/secret", "../victim/secret"):
        assert refused(lambda target=target: agent.link(target, "hard")) == errno.EACCES
        assert refused(lambda target=target: agent.rename("mine", target)) in (errno.EACCES, errno.EXDEV)
    # Root, who may look everywhere, still joins no two branches.
    for call in (os.link, os.rename):
        with pytest.raises(OSError) as raised:
            call(child(branch, "victim") / "secret", child(branch, "agent") / "stolen")
        assert raised.value.errno == errno.EXDEV


def test_no_command_leads_out_of_a_branch(agents: tuple[Path, OtherProcess], branch: Path) -> None:
    path, _ = agents
    for line in (
        *(b"branch ../x", b"branch x --from main-plan", b"branch x --from secret-plan", b"branch x from ../victim"),
        *(
            b"restore main-plan",
            b"restore secret-plan",
            b"restore ../../main-plan",
            b"restore base ../victim/secret",
        ),
        *(b"branch rm victim", b"branch rm ../victim", b"snapshot rm secret-plan", b"snapshot mv secret-plan x"),
        *(b"snapshot mv base ../x", b"checkpoint ../x", b"-C /"),
    ):
        reply = ctl(path, line)
        assert not reply["ok"] and reply["errno"] in ("EINVAL", "ENOENT"), (line, reply)
    for name, value in (("restore", b"secret-plan"), ("branch", b"../x"), ("checkpoint", b"../x")):
        assert refused(lambda n=name, v=value: os.setxattr(path, f"user.helios.{n}", v)) in (
            errno.EINVAL,
            errno.ENOENT,
        )
    told = b"".join(control(path, name).read_bytes() for name in ("status", "stats", "log"))
    for secret in (b"victim", b"secret", b"main-plan", os.fsencode(branch.parent)):
        assert secret not in told
    for verb in (b"ls", b"status", b"log", b"stats"):
        assert not {"victim", "secret-plan", "main-plan"} & set(repr(ctl(path, verb)).split("'")), verb


class _Handle(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("handle", ctypes.c_ubyte * 128))


_OPEN = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
raw = bytes.fromhex(sys.argv[2])
mount = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
print(libc.open_by_handle_at(mount, ctypes.create_string_buffer(raw, len(raw)), 0), ctypes.get_errno())
"""


def _open_by_handle(where: Path, handle: _Handle, uid: int) -> tuple[int, int]:
    raw = bytes(handle)[: 8 + handle.bytes]
    done = subprocess.run(
        ["/usr/bin/python3", "-c", _OPEN, ".", raw.hex()],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        user=uid,
        group=uid,
        extra_groups=[],
        cwd=where,
    )
    descriptor, number = done.stdout.split()
    return int(descriptor), int(number)


def test_file_handles_open_nothing_for_an_agent(agents: tuple[Path, OtherProcess], branch: Path) -> None:
    """open_by_handle_at takes CAP_DAC_READ_SEARCH; and what no kernel inode is, not even root makes one of."""
    victim = child(branch, "victim") / "secret"
    handle = _Handle(bytes=128)
    mount_id = ctypes.c_int()
    made = _libc.name_to_handle_at(-100, os.fsencode(victim), ctypes.byref(handle), ctypes.byref(mount_id), 0)
    assert made == 0, os.strerror(ctypes.get_errno())
    branch.chmod(0o755)
    assert _open_by_handle(branch, handle, AGENT) == (-1, errno.EPERM)
    assert _open_by_handle(branch, handle, 0)[0] >= 0
    forged = _Handle.from_buffer_copy(handle)
    (node,) = struct.unpack_from("<Q", bytes(forged.handle))
    for number in (node + (7 << 40), node + 1000, 0, 2**64 - 1):
        # FILEID_INO64_GEN of fuse: node id high and low, generation.
        raw = struct.pack("<III", number >> 32 & 0xFFFFFFFF, number & 0xFFFFFFFF, 0)
        ctypes.memmove(forged.handle, raw, len(raw))
        assert _open_by_handle(branch, forged, 0) == (-1, errno.ESTALE)


def test_the_store_is_closed_to_others(shared: MountedStore, other: Callable[..., OtherProcess]) -> None:
    thief = other(uid=THIEF)
    store = os.fspath(shared.store)
    assert refused(lambda: thief.listdir(store)) == errno.EACCES
    assert refused(lambda: thief.open(f"{store}/socket", os.O_RDONLY)) == errno.EACCES
    shared.point.joinpath("f").write_bytes(b"x" * 100_000)
    os.getxattr(shared.point, "user.helios.root")
    assert stat.S_IMODE(shared.store.stat().st_mode) == 0o700
    loose = [os.fspath(path) for path in shared.store.rglob("*") if stat.S_IMODE(path.lstat().st_mode) & 0o077]
    assert loose == []


def test_no_line_however_long_or_odd_ends_the_daemon(shared: MountedStore) -> None:
    point = shared.point
    for line in (
        b"x" * 100_000,
        b"'" * 9000,
        b"\0" * 50,
        b"\xff" * 50,
        b"restore v " + b"a/" * 3000,
        b"checkpoint " + b"n" * 256,
    ):
        assert not ctl(point, line)["ok"]
    reply = ctl(point, b"checkpoint " + b"q" * 9000)
    assert reply["errno"] == "E2BIG"
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.chdir(shared.store):
        client.connect("socket")
    client.settimeout(30)
    with client:
        client.sendall(b"\0\xff[[[[{\n")
        assert b"EINVAL" in client.recv(65536)
        # It hangs up in the middle of this.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(b"y" * 300_000)
    assert ctl(point, b"checkpoint fine")["ok"]


@pytest.mark.parametrize("mode", [0o4755, 0o6755, 0o6777])
def test_a_strangers_chown_of_nothing_takes_no_set_id_bits(
    branch: Path, other: Callable[..., OtherProcess], mode: int
) -> None:
    """EPERM on ext4 and through pyfuse3; to our own session it looks like what comes before fallocate(2)."""
    file = branch / f"program{mode:o}"
    file.touch()
    file.chmod(mode)
    stranger = other(uid=AGENT, cwd=branch)
    assert stranger.exists(file.name)
    with contextlib.suppress(PermissionError):
        stranger.chown(file.name, -1, -1)
    assert stat.S_IMODE(file.stat().st_mode) == mode
