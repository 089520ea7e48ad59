"""The log against a list: kills, power cuts, failed appends, releases, in any order.

A power cut keeps of what was written since a file's last fdatasync any mixture of 512-byte sectors, and any
of the files made since the directory's last fsync. What is then replayed is a beginning of what was
acknowledged that holds at least what was durable, and every payload in it reads back.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from heliosfs.core.ids import Lsn
from heliosfs.storage.errors import LogDamaged
from heliosfs.storage.log import Log, LogFollower, Place
from heliosfs.storage.log.frame import KIND_SEAL, RECORD_BYTES
from heliosfs.storage.log.oscalls import Bytes, OsCalls
from heliosfs.storage.note import StoreNote

SEGMENT = 16 * 1024
KIND_AT = 12
"""Of a record's first bytes: behind the checksum, the marker and the length."""
SECTOR = 512


class Disk:
    """Passes the log's writes on, and remembers what a power cut could take back."""

    def __init__(self) -> None:
        self.calls = OsCalls(
            append=self.append,
            cancel=self.write,
            begin_life=self.begin_life,
            sync=self.sync,
            sync_directory=self.sync_directory,
            preallocate=self.preallocate,
        )
        self.before: dict[int, dict[int, bytes]] = {}
        self.new: set[int] = set()
        self.fail = ""
        self.fail_roll = ""

    def append(self, fd: int, buffers: Sequence[Bytes], offset: int) -> int:
        data = b"".join(bytes(buffer) for buffer in buffers)
        if self.fail and data[KIND_AT] != KIND_SEAL:
            mode, self.fail = self.fail, ""
            self.write(fd, data[: len(data) // 2] if mode == "short" else data, offset)
            if mode == "short":
                return len(data) // 2
            raise OSError(errno.EIO, "injected")
        return self.write(fd, data, offset)

    def write(self, fd: int, data: bytes, offset: int) -> int:
        before = self.before.setdefault(os.fstat(fd).st_ino, {})
        for at in range(offset // SECTOR * SECTOR, offset + len(data), SECTOR):
            if at not in before:
                before[at] = os.pread(fd, SECTOR, at)
        return os.pwrite(fd, data, offset)

    def begin_life(self, fd: int, block: bytes, offset: int) -> int:
        if self.fail_roll == "header lost":
            raise OSError(errno.EIO, "injected")
        written = self.write(fd, block, offset)
        if self.fail_roll == "header written":
            raise OSError(errno.EIO, "injected")
        return written

    def sync(self, fd: int) -> None:
        self.before.pop(os.fstat(fd).st_ino, None)

    def preallocate(self, fd: int, offset: int, length: int) -> None:
        if self.fail_roll == "disk full":
            raise OSError(errno.ENOSPC, "injected")
        os.posix_fallocate(fd, offset, length)
        self.new.add(os.fstat(fd).st_ino)

    def sync_directory(self, fd: int) -> None:
        self.new.clear()

    def cut_power(self, directory: Path, dice: random.Random) -> None:
        """Take back in `directory` what the disk never had."""
        keep = dice.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for path in sorted(directory.glob("seg-*")):
            ino = path.stat().st_ino
            if ino in self.new and dice.random() < 0.5:
                path.unlink()
                continue
            with path.open("r+b") as file:
                for at, old in sorted(self.before.get(ino, {}).items()):
                    if dice.random() >= keep:
                        file.seek(at)
                        file.write(old)
        self.before.clear()
        self.new.clear()


class LogMachine(RuleBasedStateMachine):
    """One log and the list of what it acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="log-property-"))
        self.acknowledged: list[tuple[int, bytes, bytes, Place]] = []
        self.start = Lsn(0)
        self.number = 0
        self.disk = Disk()
        self.log = self.open()
        self.replayed.clear()

    def open(self) -> Log:
        self.replayed: list[tuple[int, bytes, Place]] = []
        return Log.open(
            self.directory,
            budget_bytes=1 << 20,
            start=self.start,
            on_record=self.on_record,
            segment_bytes=SEGMENT,
            calls=self.disk.calls,
        )

    def on_record(self, lsn: int, end: int, kind: int, body: memoryview, place: Place) -> None:
        self.replayed.append((kind, bytes(body), place))

    def teardown(self) -> None:
        self.log.close()
        shutil.rmtree(self.directory)

    def payload(self, size: int) -> bytes:
        return random.Random(self.number).randbytes(size) if self.number % 3 else bytes(size)

    @rule(body=st.integers(0, 300), payload=st.integers(0, 6000), kind=st.integers(0, 200))
    def append(self, body: int, payload: int, kind: int) -> None:
        self.number += 1
        text = (b"%d " % self.number * (body // 2 + 1))[:body]
        data = self.payload(payload)
        place = self.log.append(kind, text, data)
        self.acknowledged.append((kind, text, data, place))

    @rule(how=st.sampled_from(("short", "error")), payload=st.integers(0, 6000))
    def append_fails(self, how: str, payload: int) -> None:
        self.number += 1
        self.disk.fail = how
        end = self.log.end
        with pytest.raises(OSError, match=r"short|injected"):
            self.log.append(9, b"must never be seen", self.payload(payload))
        assert self.log.end >= end

    @rule(
        how=st.sampled_from(("header lost", "header written", "disk full")),
        payloads=st.lists(st.sampled_from((0, 100, 3000, 6000)), min_size=2, max_size=6),
    )
    def append_while_no_life_can_begin(self, how: str, payloads: list[int]) -> None:
        """What is acknowledged counts, also behind an append that failed; what failed does not."""
        self.disk.fail_roll = how
        for payload in payloads:
            try:
                self.append(20, payload, 1)
            except OSError as error:
                assert str(error).endswith("injected")
        self.disk.fail_roll = ""

    @rule()
    def sync(self) -> None:
        self.log.sync()
        assert self.log.durable_lsn == self.log.end

    @precondition(lambda self: self.acknowledged)
    @rule(share=st.floats(0, 1))
    def release(self, share: float) -> None:
        place = self.acknowledged[int(share * (len(self.acknowledged) - 1))][3]
        if place.end_lsn <= self.log.durable_lsn:
            self.start = place.end_lsn
            self.log.release(self.start)
            self.acknowledged = [entry for entry in self.acknowledged if entry[3].end_lsn > self.start]

    @rule()
    def close_and_open(self) -> None:
        self.log.close()
        self.log = self.open()
        self.compare(len(self.acknowledged))

    def open_on(self, full: bool, opened: Callable[[], Log] | None = None) -> Log:
        """On a full disk; where the log holds nothing there must be room after all."""
        opened = opened or self.open
        self.disk.fail_roll = "disk full" if full else ""
        try:
            return opened()
        except OSError as error:
            assert str(error).endswith("injected")
            assert not self.replayed
        finally:
            self.disk.fail_roll = ""
        return opened()

    @rule(full=st.booleans())
    def kill_and_open(self, full: bool) -> None:
        self.log._close_files()
        self.log = self.open_on(full)
        self.compare(len(self.acknowledged))

    @rule(seed=st.integers(0, 1 << 32), full=st.booleans())
    def cut_power_and_open(self, seed: int, full: bool) -> None:
        durable = self.log.durable_lsn
        self.log._close_files()
        self.disk.cut_power(self.directory, random.Random(seed))
        self.log = self.open_on(full)
        self.compare(sum(1 for entry in self.acknowledged if entry[3].end_lsn <= durable))

    def compare(self, least: int) -> None:
        """The replay is a beginning of what was acknowledged, and holds `least` records or more."""
        assert len(self.replayed) >= least
        self.acknowledged = self.acknowledged[: len(self.replayed)]
        assert self.replayed == [(kind, body, place) for kind, body, _, place in self.acknowledged]
        assert self.log.recovery.records == len(self.replayed)

    @precondition(lambda self: self.acknowledged)
    @rule(share=st.floats(0, 1), where=st.floats(0, 1), bit=st.integers(0, 7))
    def flip(self, share: float, where: float, bit: int) -> None:
        """One bit of a durable record, with a claim behind it: damage, or EIO for whoever reads it."""
        self.log.sync()
        self.append(0, 0, 1)
        _, body, data, place = self.acknowledged[int(share * (len(self.acknowledged) - 2))]
        if len(self.acknowledged) < 2:
            return
        head = place.offset - RECORD_BYTES - len(body) - len(place.sums)
        size = RECORD_BYTES + len(body) + len(place.sums) + len(data)
        at = head + min(int(where * size), size - 1)
        path = self.log.locate(place.life)[0]
        self.turn(path, at, bit)
        kept = self.directory.with_suffix(".flip")
        shutil.copytree(self.directory, kept)
        try:
            if at >= place.offset:
                with pytest.raises(LogDamaged):
                    self.log.read_blocks(place.life, place.offset, place.length, place.sums, 0, place.length)
                seen: list[Place] = []
                Log.open(
                    kept,
                    budget_bytes=1,
                    start=self.start,
                    on_record=lambda lsn, end, kind, body, place: seen.append(place),
                    segment_bytes=SEGMENT,
                ).close()
                assert seen == [entry[3] for entry in self.acknowledged]
            else:
                with pytest.raises(LogDamaged):
                    Log.open(
                        kept,
                        budget_bytes=1,
                        start=self.start,
                        on_record=lambda *_: None,
                        segment_bytes=SEGMENT,
                    )
        finally:
            shutil.rmtree(kept)
            self.turn(path, at, bit)

    @staticmethod
    def turn(path: Path, at: int, bit: int) -> None:
        with path.open("r+b") as file:
            file.seek(at)
            old = file.read(1)[0]
            file.seek(at)
            file.write(bytes([old ^ 1 << bit]))

    @invariant()
    def payloads_read_back(self) -> None:
        for _, _, data, place in self.acknowledged[-3:]:
            found = self.log.read_blocks(place.life, place.offset, place.length, place.sums, 0, place.length)
            assert found == data

    @invariant()
    def durable_is_not_ahead(self) -> None:
        assert self.log.durable_lsn <= self.log.end


class FollowedLogMachine(LogMachine):
    """The same with somebody who follows the log, and from whose place it is opened after kills."""

    def __init__(self) -> None:
        self.note = StoreNote()
        self.follower: LogFollower | None = None
        self.followed: list[tuple[int, bytes, Place]] = []
        super().__init__()

    def open(self) -> Log:
        self.replayed = []
        return Log.open(
            self.directory,
            budget_bytes=1 << 20,
            start=self.start,
            on_record=self.on_record,
            segment_bytes=SEGMENT,
            calls=self.disk.calls,
            note=self.note,
        )

    def teardown(self) -> None:
        self.follow_no_more()
        os.close(self.note.fd)
        super().teardown()

    def follow_no_more(self) -> None:
        if self.follower is not None:
            self.follower.close()
        self.follower = None

    @rule()
    def follow(self) -> None:
        self.follow_no_more()
        self.followed = []
        followed = self.followed
        self.follower = LogFollower(
            self.directory,
            self.start,
            lambda lsn, end, kind, body, place: followed.append((kind, bytes(body), place)),
        )

    @precondition(lambda self: self.follower is not None)
    @rule(most=st.sampled_from((1, 2, 5, 1000)))
    def advance(self, most: int) -> None:
        assert self.follower is not None
        before = len(self.followed)
        assert self.follower.advance(most) == len(self.followed) - before <= most
        self.compare_followed()

    def compare_followed(self) -> None:
        known = [(kind, body, place) for kind, body, _, place in self.acknowledged]
        assert self.followed == known[: len(self.followed)]

    @precondition(lambda self: self.follower is not None)
    @rule()
    def catch_up(self) -> None:
        """But for the last record, of which nothing says yet that it is whole, all is seen."""
        assert self.follower is not None
        while self.follower.advance(3) == 3:
            continue
        self.compare_followed()
        assert len(self.followed) >= len(self.acknowledged) - 1

    @precondition(lambda self: self.follower is not None)
    @rule(
        torn=st.sampled_from((0.0, 0.3, 0.99)),
        look=st.booleans(),
        payload=st.sampled_from((0, 5000)),
        full=st.booleans(),
    )
    def kill_and_go_on(self, torn: float, look: bool, payload: int, full: bool) -> None:
        """As after the death of who has appended, half way through a record perhaps, which may be seen."""
        follower = self.follower
        assert follower is not None
        if torn and self.log._offset + payload + 1000 < self.log._limit:
            offset, fd = self.log._offset, os.dup(self.log._fd)
            place = self.log.append(7, b"torn", random.Random(7).randbytes(payload))
            size = place.end_lsn - place.lsn
            # Of one without payload not all but the padding.
            kept = max(int(size * torn), RECORD_BYTES) if payload else min(int(size * torn), RECORD_BYTES)
            os.pwrite(fd, bytes(size - kept), offset + kept)
            os.close(fd)
        self.log._close_files()
        if look:
            follower.advance(1000)
            self.compare_followed()
        seen = len(self.followed)
        self.replayed = list(self.followed)
        opened = partial(
            Log.open,
            self.directory,
            budget_bytes=1 << 20,
            start=self.start,
            on_record=self.on_record,
            segment_bytes=SEGMENT,
            calls=self.disk.calls,
            seen=follower.seen,
            note=self.note,
        )
        self.log = self.open_on(full, opened)
        assert self.log.recovery.followed == seen
        self.compare(len(self.acknowledged))

    @precondition(lambda self: self.acknowledged)
    @rule(share=st.floats(0, 1))
    def release(self, share: float) -> None:
        super().release(share)
        self.follow_no_more()

    @rule(seed=st.integers(0, 1 << 32), full=st.booleans())
    def cut_power_and_open(self, seed: int, full: bool) -> None:
        self.follow_no_more()
        super().cut_power_and_open(seed, full)


_SETTINGS = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
LogMachine.TestCase.settings = _SETTINGS
FollowedLogMachine.TestCase.settings = _SETTINGS
TestLog = LogMachine.TestCase
TestFollowedLog = FollowedLogMachine.TestCase
