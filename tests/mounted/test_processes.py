"""Several processes at once on one tree: shared mappings, appending, listings while names change, locks."""

from __future__ import annotations

import fcntl
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounts import MountedStore, run, shell, wait_until
from tests.support.otherprocess import OtherProcess
from tests.support.versions import checkpoint, snapshot

pytestmark = pytest.mark.mounted
Starter = Callable[..., OtherProcess]


def test_shared_mappings(branch: Path, other: Starter) -> None:
    """What one process stores, another loads, and write(2) and read(2) agree with both."""
    (branch / "f").write_bytes(b"0" * 65536)
    one, two = other(), other()
    first = one.map(branch / "f", 65536, writable=True)
    second = two.map(branch / "f", 65536, writable=True)
    for number in range(20):
        offset = number * 3001
        one.mwrite(first, offset, b"one%03d" % number)
        assert two.mread(second, offset, 6) == b"one%03d" % number
        two.mwrite(second, offset, b"two")
        assert one.mread(first, offset, 6) == b"two%03d" % number
        descriptor = one.open(branch / "f", os.O_RDWR)
        assert one.pread(descriptor, 6, offset) == b"two%03d" % number
        one.pwrite(descriptor, b"W", offset)
        assert two.mread(second, offset, 4) == b"Wwo%d" % (number // 100)
        one.close_fd(descriptor)
    two.msync(second)
    content = (branch / "f").read_bytes()
    assert all(content[number * 3001 :][:6] == b"Wwo%03d" % number for number in range(20))


def test_a_synced_mapping_is_in_the_checkpoint(branch: Path, other: Starter) -> None:
    """msync(2) has returned: it is held."""
    (branch / "f").write_bytes(b"0" * 8192)
    writer = other()
    mapping = writer.map(branch / "f", 8192, writable=True)
    for number in range(5):
        writer.mwrite(mapping, 4090, b"%012d" % number)
        writer.msync(mapping)
        checkpoint(branch, b"v%d" % number)
    for number in range(5):
        assert (snapshot(branch, f"v{number}") / "f").read_bytes()[4090:4102] == b"%012d" % number


def test_stores_into_what_became_read_only_are_refused(branch: Path, other: Starter) -> None:
    """What is stored into a snapshot's mapping is refused, at the latest when it is written back, and is not seen
    by anybody then; a live file mapped before a checkpoint goes on."""
    (branch / "f").write_bytes(b"0" * 4096)
    writer = other()
    mapping = writer.map(branch / "f", 4096, writable=True)
    checkpoint(branch, b"v1")
    writer.mwrite(mapping, 0, b"after")
    writer.msync(mapping)
    assert (branch / "f").read_bytes()[:5] == b"after"
    assert (snapshot(branch, "v1") / "f").read_bytes()[:5] == b"00000"
    frozen = snapshot(branch, "v1") / "f"
    with pytest.raises(OSError):
        forged = writer.map(frozen, 4096, writable=True)
        writer.mwrite(forged, 0, b"forged")
        writer.msync(forged)
    wait_until(lambda: frozen.read_bytes()[:6] == b"000000", "what was refused is forgotten")


def test_appending_from_many(branch: Path, other: Starter) -> None:
    """O_APPEND: no line is lost or cut."""
    writers = [other() for _ in range(4)]
    for number, writer in enumerate(writers):
        writer.send("writes", branch / "log", b"writer %d" % number, 300, branch / "never")
    assert [writer.result() for writer in writers] == [300] * 4
    lines = (branch / "log").read_bytes().splitlines()
    assert len(lines) == 1200
    for number in range(4):
        mine = [line for line in lines if line.startswith(b"writer %d " % number)]
        assert mine == [b"writer %d %08d" % (number, line) for line in range(300)]


def test_a_listing_while_names_change(branch: Path, other: Starter) -> None:
    """What is there from the first call to the last is shown exactly once, whatever comes and goes around it."""
    directory = branch / "d"
    directory.mkdir()
    for number in range(1000):
        (directory / f"stay{number:04d}").touch()
    changer = other(cwd=directory)
    for turn in range(3):
        changer.send("churn", ".", 300, turn)
        for _ in range(3):
            with os.scandir(directory) as entries:
                seen = [entry.name for entry in entries]
            assert len(seen) == len(set(seen))
            assert sorted(name for name in seen if name.startswith("stay")) == [f"stay{n:04d}" for n in range(1000)]
        changer.result()


def test_removing_while_listing(branch: Path) -> None:
    """As rm -r does."""
    for number in range(3000):
        (branch / f"f{number}").touch()
    with os.scandir(branch) as entries:
        for entry in entries:
            os.unlink(branch / entry.name)
    assert os.listdir(branch) == []


def test_telldir_and_seekdir(branch: Path) -> None:
    """A position in a listing means the same later."""
    for number in range(500):
        (branch / f"f{number}").touch()
    script = """
use strict; my (@all, %at); opendir(my $d, $ARGV[0]) or die;
while (1) { my $p = telldir($d); my $n = readdir($d); last unless defined $n; push @all, $n; $at{$n} = $p; }
for my $n (reverse @all) { seekdir($d, $at{$n}); my $again = readdir($d); die "$n $again" unless $again eq $n; }
rewinddir($d); my @second = readdir($d); die unless @second == @all; print scalar(@all);
"""
    assert run("perl", "-e", script, branch).stdout == "502"


def test_locks_between_processes(branch: Path, other: Starter) -> None:
    """A lock that one waits for is granted when the other lets go, or ends."""
    (branch / "f").write_bytes(b"x")
    for act in ("flock", "lockf"):
        one, two = other(), other()
        mine = one.open(branch / "f", os.O_RDWR)
        theirs = two.open(branch / "f", os.O_RDWR)
        getattr(one, act)(mine, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            getattr(two, act)(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        two.send(act, theirs, fcntl.LOCK_EX)
        assert not two.finished()
        getattr(one, act)(mine, fcntl.LOCK_UN)
        two.result()
        one.send(act, mine, fcntl.LOCK_EX)
        two.close()
        one.result()


def test_statfs(branch: Path) -> None:
    """Real numbers, and they move."""
    found = os.statvfs(branch)
    assert found.f_bsize >= 512 and found.f_frsize and found.f_namemax == 255
    assert 0 < found.f_bavail <= found.f_bfree <= found.f_blocks
    assert found.f_ffree > 1_000_000
    before = found.f_files - found.f_ffree
    for number in range(50):
        (branch / f"f{number}").touch()
    after = os.statvfs(branch)
    assert after.f_files - after.f_ffree >= before + 50
    assert "heliosfs" in shell("df -T . | tail -1", branch)


def test_many_open_files(branch: Path) -> None:
    """A thousand descriptors at once."""
    descriptors = [os.open(branch / f"f{number}", os.O_CREAT | os.O_RDWR) for number in range(800)]
    for number, descriptor in enumerate(descriptors):
        os.write(descriptor, b"%d" % number)
    for number in range(0, 800, 2):
        os.unlink(branch / f"f{number}")
    for number, descriptor in enumerate(descriptors):
        assert os.pread(descriptor, 10, 0) == b"%d" % number
        os.close(descriptor)
    assert len(os.listdir(branch)) == 400


def test_random_work_of_several_processes(branch: Path, other: Starter, dice: random.Random) -> None:
    """Each in its own directory, checked against what it did; checkpoints all the while."""
    workers = [other() for _ in range(3)]
    for number, worker in enumerate(workers):
        (branch / f"w{number}").mkdir()
        worker.send("exercise", branch / f"w{number}", dice.randrange(1 << 30), 400)
    turns = 0
    while not all(worker.finished() for worker in workers):
        checkpoint(branch, b"s%d" % turns)
        turns += 1
    assert turns
    for worker in workers:
        assert worker.result() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting an overlay takes root")
def test_overlayfs_with_its_upper_directory_here(branch: Path, scratch: Path) -> None:
    """Whiteouts, opaque directories, copy-up, rename: overlayfs finds all that it needs."""
    for name in ("lower", "merged"):
        (scratch / name).mkdir()
    (scratch / "lower/d").mkdir()
    for number in range(5):
        (scratch / f"lower/f{number}").write_bytes(b"lower")
        (scratch / f"lower/d/f{number}").write_bytes(b"lower")
    for name in ("upper", "work"):
        (branch / name).mkdir()
    options = f"lowerdir={scratch}/lower,upperdir={branch}/upper,workdir={branch}/work"
    run("mount", "-t", "overlay", "overlay", "-o", options, scratch / "merged")
    try:
        script = "rm f0; echo upper > f1; mv f2 moved; rm -r d; mkdir d; echo new > d/new; chmod 600 f3; ln f4 hard"
        shell(script, scratch / "merged")
        assert sorted(os.listdir(scratch / "merged")) == ["d", "f1", "f3", "f4", "hard", "moved"]
        assert os.listdir(scratch / "merged/d") == ["new"]
        checkpoint(branch, b"v1")
    finally:
        run("umount", scratch / "merged")
    whiteout = os.lstat(branch / "upper/f0")
    assert oct(whiteout.st_mode) == oct(0o20000) or whiteout.st_rdev == 0
    assert (branch / "upper/f1").read_bytes() == b"upper\n"
    run("mount", "-t", "overlay", "overlay", "-o", options, scratch / "merged")
    try:
        assert sorted(os.listdir(scratch / "merged")) == ["d", "f1", "f3", "f4", "hard", "moved"]
        assert (scratch / "merged/moved").read_bytes() == b"lower"
    finally:
        run("umount", scratch / "merged")
    assert sorted(os.listdir(scratch / "lower")) == ["d", "f0", "f1", "f2", "f3", "f4"]


def test_idle_daemon_uses_no_processor(fresh: MountedStore) -> None:
    """Nothing comes in: nothing is done."""
    (fresh.point / "f").write_bytes(b"x")
    fresh.wait_durable()
    pid = fresh.worker()

    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    seen: list[int] = []

    def quiet() -> bool:
        seen.append(ticks())
        # 100 polls of 5 ms and more: half a second in which at most one tick (10 ms) was used.
        return len(seen) > 100 and seen[-1] - seen[-100] <= 1

    wait_until(quiet, "an idle daemon")
