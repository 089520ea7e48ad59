"""How large a run is: the full one takes figures, the short one (CI) proves that taking them works."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path


def _scales(divisor: int) -> tuple[tuple[str, int, int], ...]:
    """The dimensions of scale, all of them but depth and sparseness divided; 1 is what is promised."""
    large = {"files": 1_000_000, "entries of a directory": 100_000, "snapshots": 10_000, "branches": 1_000}
    small = {"files": 1_000, "entries of a directory": 100, "snapshots": 10, "branches": 2}
    return (
        *((kind, max(1, min(small[kind], size // divisor // 2)), size // divisor) for kind, size in large.items()),
        ("levels of a path", 2, 200),
        ("bytes of a sparse file", 16 << 20, 50 << 30),
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of everything that is measured.

    Attributes:
        directory: Where to work; an empty directory of this run's own, removed after it.
        rounds: Repetitions of what is compared in pairs.
        samples: Repetitions of single operations.
        tree_files, large_files, largest_files: Files of the three standard trees.
        branches: Forks where DECISIONS says 100.
        dedup_branches: Forks where DECISIONS says 20.
        big_bytes: The file that a byte is changed in (64 MiB).
        stream_bytes: Of the sequential write (128 MiB).
        shared_bytes: Of the file that all branches read (32 MiB).
        busy_bytes: What is compacted while others stat (200 MB).
        dead_chunks: What is collected while others stat (100,000).
        stall_s: How long an undisturbed run of stats lasts.
        loose_files: Files that are created and read one by one (1,000).
        transactions: SQLite's (200).
        scales: (dimension, small, large) of tests/bench/scale.py.
        mounted_files: Files of the two trees that are mounted there; open_files: how many are held open.
        peers: Names of the filesystems to compare with; None: all that this machine can mount.
    """

    directory: Path
    short: bool
    rounds: int
    samples: int
    tree_files: int
    large_files: int
    largest_files: int
    branches: int
    dedup_branches: int
    big_bytes: int
    stream_bytes: int
    shared_bytes: int
    busy_bytes: int
    stall_s: float
    dead_chunks: int
    loose_files: int
    transactions: int
    scales: tuple[tuple[str, int, int], ...]
    mounted_files: tuple[int, int]
    open_files: int
    peers: tuple[str, ...] | None

    @classmethod
    def full(cls, directory: Path, rounds: int = 3, peers: tuple[str, ...] | None = None) -> Plan:
        """What the figures of DESIGN section 7 mean; about 15 minutes on two cores."""
        return cls(
            directory=directory,
            short=False,
            rounds=rounds,
            samples=1000,
            tree_files=1500,
            large_files=10_000,
            largest_files=100_000,
            branches=100,
            dedup_branches=20,
            big_bytes=64 << 20,
            stream_bytes=128 << 20,
            shared_bytes=32 << 20,
            busy_bytes=200_000_000,
            stall_s=10.0,
            dead_chunks=100_000,
            loose_files=1000,
            transactions=200,
            scales=_scales(10),
            mounted_files=(1000, 100_000),
            open_files=1000,
            peers=peers,
        )

    @classmethod
    def brief(cls, directory: Path, rounds: int = 1, peers: tuple[str, ...] | None = None) -> Plan:
        """Everything once on small trees, in less than a minute: no figure of it means anything."""
        return cls(
            directory=directory,
            short=True,
            rounds=rounds,
            samples=40,
            tree_files=60,
            large_files=120,
            largest_files=1000,
            branches=4,
            dedup_branches=3,
            big_bytes=2 << 20,
            stream_bytes=4 << 20,
            shared_bytes=1 << 20,
            busy_bytes=4_000_000,
            stall_s=0.5,
            dead_chunks=500,
            loose_files=50,
            transactions=10,
            scales=(("files", 100, 400), ("branches", 2, 6)),
            mounted_files=(60, 400),
            open_files=40,
            peers=peers if peers is not None else (),
        )

    def at_full_scale(self) -> Plan:
        """With a million files, 10,000 snapshots and 1,000 branches: some minutes more."""
        return replace(self, scales=_scales(1), mounted_files=(1000, 1_000_000), open_files=10_000)
