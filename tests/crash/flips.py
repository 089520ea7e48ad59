"""One flipped byte anywhere in a store: harmless, EIO for exactly what it holds, or refused with the object named.

    python -m tests.crash.flips --flips 1000 --seed 7 [--repair] [--only KIND] [--directory DIR] [--keep]

Makes a store with a known tree, copies it once for every flip, flips one bit of one byte, lets fsck look, opens
the copy and reads every branch and snapshot of it whole. Prints one JSON line a flip that was not harmless, then
a summary; exits 1 if anything was wrong. Places are spread over kinds of files and of parts of them, because most
bytes of a store are content. Never wrong data, never a crash, never a name that is missing without an error.
"""

from __future__ import annotations

import argparse
import collections
import errno
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from heliosfs.core.errors import Damaged, FsError
from heliosfs.core.ids import ROOT_INO, NodeId, ViewNo, node_id
from heliosfs.filesystem import Caller, Filesystem, open_filesystem
from heliosfs.storage.checking.findings import Kind, Report
from heliosfs.storage.checking.repair import repair
from heliosfs.storage.checking.verify import verify
from heliosfs.storage.errors import StoreError
from heliosfs.storage.workers.pool import WorkerPool

ME: Final = Caller(0, 0)
BLOCK: Final = 4096

Version = tuple[str, str | None]
Content = dict[str, list[bytes | int] | None]
"""Path -> blocks of the file, an errno in place of one that can't be read; None for a directory."""


@dataclass(slots=True)
class Seen:
    """What can be read of a store.

    Attributes:
        versions: Of each branch and snapshot: path -> blocks.
        lost: (branch, snapshot, path) of directories that can't be listed, and names that can't be looked up.
    """

    versions: dict[Version, Content] = field(default_factory=dict)
    lost: set[tuple[str, str | None, str]] = field(default_factory=set)


# --- the store ---------------------------------------------------------------------------------------


async def fill(fs: Filesystem, rng: random.Random) -> None:
    """Three branches, five snapshots, small and large files, a directory of many names, data still in the log."""
    assert fs.engine.main is not None
    view = fs.engine.main.view
    root = node_id(view, ROOT_INO)
    for number in range(6):
        file = await fs.make(root, b"small-%d" % number, 0o100644, ME)
        await fs.write(file.node, 0, b"line %d\n" % number * (1 + 40 * number), ME)
    large = await fs.make(root, b"large", 0o100644, ME)
    await fs.write(large.node, 0, rng.randbytes(300_000), ME)
    many = await fs.make(root, b"many", 0o40755, ME)
    for number in range(150):
        await fs.make(many.node, b"name-%03d" % number, 0o100644, ME)
    await fs.checkpoint(view, b"one", ME)
    await fs.wait_persisted()
    await fs.write(large.node, 100_000, rng.randbytes(50_000), ME)
    child = await fs.fork(view, b"child", ME)
    assert child is not None
    inner = fs.find_branch(b"main/child").view
    await fs.unlink(node_id(inner, ROOT_INO), b"small-3", ME)
    await fs.checkpoint(inner, b"without", ME)
    await fs.checkpoint(view, b"two", ME)
    await fs.wait_persisted()
    for number in range(4):
        file = await fs.make(root, b"late-%d" % number, 0o100644, ME)
        await fs.write(file.node, 0, rng.randbytes(9000 + 8000 * number), ME)
        await fs.fsync(file.node)
    await fs.fork(view, b"other", ME)
    await fs.checkpoint(view, b"three", ME)
    await fs.fsync(file.node)
    # Says how far the log was durable: without a later record damage at its end is taken for a torn tail.
    await fs.make(root, b"last", 0o100644, ME)


async def make_stores(directory: Path, rng: random.Random) -> dict[Path, Seen]:
    """Two stores, one as a killed daemon leaves it and one that was closed; and what is in them."""
    made: dict[Path, Seen] = {}
    original, killed = directory / "closed", directory / "killed"
    async with open_filesystem(original, create=True, background=False) as fs:
        await fill(fs, rng)
        made[killed] = made[original] = await read_everything(fs)
        copy_store(original, killed)
    return made


def copy_store(source: Path, target: Path) -> None:
    """Copy a store; holes stay holes."""
    for parent, directories, names in os.walk(source):
        there = target / os.path.relpath(parent, source)
        there.mkdir(mode=0o700, parents=True, exist_ok=True)
        directories.sort()
        for name in names:
            _copy_sparse(os.path.join(parent, name), there / name)


def _copy_sparse(source: str, target: Path) -> None:
    with open(source, "rb") as old, target.open("wb") as new:
        size = os.fstat(old.fileno()).st_size
        at = 0
        while at < size:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break
            end = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            while at < end:
                at += os.copy_file_range(old.fileno(), new.fileno(), end - at, at, at)
        new.truncate(size)


# --- reading -----------------------------------------------------------------------------------------


async def read_everything(fs: Filesystem) -> Seen:
    """Read every branch and snapshot, block by block."""
    seen = Seen()
    for branch in list(fs.engine.branches.values()):
        path = branch.path.decode()
        await _read_tree(fs, seen, (path, None), branch.view)
        for name in list(branch.snapshots):
            version = (path, name.decode())
            try:
                view = (await fs.snapshot_root(branch.view, name)).node >> 40
            except FsError as error:
                if error.errno != errno.EIO:
                    raise
                # The page of its root is lost: so is all of it.
                seen.versions[version] = {}
                seen.lost.add((*version, ""))
                continue
            await _read_tree(fs, seen, version, ViewNo(view))
    return seen


async def _read_tree(fs: Filesystem, seen: Seen, version: Version, view: ViewNo) -> None:
    content: Content = {}
    seen.versions[version] = content
    waiting: list[tuple[str, NodeId]] = [("", node_id(view, ROOT_INO))]
    while waiting:
        path, node = waiting.pop()
        try:
            attributes = await fs.getattr(node)
            if attributes.is_dir():
                waiting += [(f"{path}/{name}".lstrip("/"), found) for name, found in await _names(fs, node)]
                content[path] = None
                continue
        except FsError as error:
            if error.errno != errno.EIO:
                raise
            seen.lost.add((*version, path))
            continue
        blocks: list[bytes | int] = []
        for at in range(0, attributes.size, BLOCK):
            try:
                blocks.append(await fs.read(node, at, BLOCK))
            except FsError as error:
                blocks.append(error.errno)
        content[path] = blocks


async def _names(fs: Filesystem, node: NodeId) -> list[tuple[str, NodeId]]:
    """Names and nodes of a directory, of files that can't be had, too. Raises FsError EIO."""
    view, ino = node >> 40, node & (1 << 40) - 1
    inode = fs.engine.inode(ViewNo(view), ino)  # type: ignore[arg-type]
    from heliosfs.core import radix

    with fs.cache.blocking():
        return [
            (name.decode(), node_id(ViewNo(view), child))
            for _, bucket in radix.items(inode.tree, fs.engine.pages)
            for name, child, _ in bucket
        ]


# --- flips -------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Flip:
    """One bit: `kind` says what part of a store lies there."""

    kind: str
    file: str
    offset: int
    bit: int


def places(store: Path, rng: random.Random, only: str) -> Iterator[Flip]:
    """Places without end, kind after kind; none where the store has none of those kinds."""
    kinds: dict[str, list[tuple[str, int, int]]] = collections.defaultdict(list)
    for parent, _, names in os.walk(store):
        for name in sorted(names):
            path = Path(parent, name)
            size = path.stat().st_size
            file = os.fspath(path.relative_to(store))
            for kind, start, end in _parts(file, path, size):
                if start < end and kind.startswith(only):
                    kinds[kind].append((file, start, end))
    while kinds:
        for kind in sorted(kinds):
            file, start, end = rng.choice(kinds[kind])
            yield Flip(kind, file, rng.randrange(start, end), rng.randrange(8))


def _parts(file: str, path: Path, size: int) -> list[tuple[str, int, int]]:
    if file.startswith("log/seg-"):
        used = len(path.read_bytes().rstrip(b"\0"))
        return [
            ("segment header", 0, 84),
            ("segment header", 2048, 2132),
            ("segment records", 4096, max(used, 4096)),
            ("segment records", 4096, max(used, 4096)),
            ("segment rest", used, size),
        ]
    if file.startswith("packs/"):
        return [("pack header", 0, min(32, size)), ("pack entries", 32, size)]
    if file.startswith("db/"):
        name = path.name
        for kind in ("sst", "log"):
            if name.endswith(f".{kind}"):
                return [(f"db {kind}", 0, size)] * 2
        return [(f"db {name.partition('-')[0]}", 0, size)]
    return [(file, 0, size)]


def flip(store: Path, where: Flip) -> None:
    """Flip it."""
    with (store / where.file).open("r+b") as file:
        file.seek(where.offset)
        byte = file.read(1)[0]
        file.seek(where.offset)
        file.write(bytes([byte ^ 1 << where.bit]))


@dataclass(slots=True)
class Outcome:
    """What one flip did: "harmless", "eio", "refused" or, which must not be, "wrong"."""

    kind: str
    reason: str = ""
    found: bool = False


def judge(known: Seen, seen: Seen, report: Report) -> Outcome:
    """Compare what was read with what is known, and what could not be read with what fsck said."""
    bad: dict[tuple[str, str | None, str], set[int]] = {}
    if known.versions.keys() != seen.versions.keys():
        return Outcome("wrong", f"versions: {sorted(map(str, seen.versions))}")
    for version, content in known.versions.items():
        now = seen.versions[version]
        for path, blocks in content.items():
            key = (*version, path)
            if path not in now:
                if _below_any(key, seen.lost):
                    continue
                return Outcome("wrong", f"{key} is missing without an error")
            found = now[path]
            if blocks is None or found is None:
                if blocks is not found:
                    return Outcome("wrong", f"{key} is of another type")
                continue
            if len(found) != len(blocks):
                return Outcome("wrong", f"{key} has {len(found)} blocks, not {len(blocks)}")
            for at, (old, new) in enumerate(zip(blocks, found, strict=True)):
                if isinstance(new, int):
                    if new != errno.EIO:
                        return Outcome("wrong", f"{key} block {at}: errno {new}")
                    bad.setdefault(key, set()).add(at)
                elif old != new:
                    return Outcome("wrong", f"{key} block {at} has other bytes")
        extra = now.keys() - content.keys()
        if extra:
            return Outcome("wrong", f"{version} has {sorted(extra)}")
    told: dict[tuple[str, str | None, str], set[int]] = {}
    gone: set[tuple[str, str | None, str]] = set()
    for finding in report.findings:
        for touched in finding.touches:
            key = (touched.branch, touched.snapshot, touched.path)
            if touched.ranges is None:
                gone.add(key)
            for start, end in touched.ranges or ():
                told.setdefault(key, set()).update(range(start // BLOCK, (end - 1) // BLOCK + 1))
    # Below a directory that can't be read nothing was looked at.
    told = {key: blocks for key, blocks in told.items() if not _below_any(key, seen.lost)}
    gone = {key for key in gone if key in seen.lost or not _below_any(key, seen.lost)}
    if bad != told:
        return Outcome("wrong", f"EIO for {bad}, fsck told of {told}")
    if seen.lost != gone:
        return Outcome("wrong", f"lost {sorted(map(str, seen.lost))}, fsck told of {sorted(map(str, gone))}")
    return Outcome("eio" if bad or gone else "harmless", found=not report.clean)


def _below_any(key: tuple[str, str | None, str], lost: set[tuple[str, str | None, str]]) -> bool:
    """Whether a path, or a directory above it, can't be read; "?" is where nobody knows the way."""
    *version, path = key
    parts = path.split("/")
    return path.startswith("?") or any(
        (*version, "/".join(parts[:depth])) in lost for depth in range(len(parts) + 1)
    )


def _repaired(store: Path, known: Seen, before: Report) -> str:
    """Mend the store and read it: it opens, agrees with itself, what was whole is whole. What is wrong, or ""."""
    repair(store)
    try:
        seen = trio.run(_opened, store)
    except BaseException as group:
        error = leaf_of(group)
        if isinstance(error, Damaged) and error.object_id == "refs":
            # docs/fsck.md, "Not repaired, but named": the block that held the refs is gone.
            return ""
        return "repaired, and not opened: " + "".join(traceback.format_exception(leaf_of(group)))[-1500:]
    again = verify(store).report
    left = {finding.kind for finding in again.findings} - {Kind.CHUNK, Kind.LOG_DATA}
    if left:
        return f"repaired, and fsck still finds {[finding.as_dict() for finding in again.findings][:3]}"
    if {finding.kind for finding in before.findings} & {Kind.LOG, Kind.DATABASE, Kind.REFS}:
        # Whatever those held may be older now.
        return ""
    told = {(t.branch, t.snapshot, t.path) for finding in before.findings for t in finding.touches}
    for version, content in known.versions.items():
        now = seen.versions.get(version)
        if now is None:
            return f"repaired, and {version} is gone"
        for path, blocks in content.items():
            key = (*version, path)
            if now.get(path, -1) != blocks and key not in told and not _below_any(key, told):
                return f"repaired, and {key} is not what it was, though it was whole"
    return ""


async def _opened(store: Path) -> Seen:
    async with open_filesystem(store, background=False) as fs:
        seen = await read_everything(fs)
        # A last cut would take longer than all the reading, and nothing looks at it.
        fs.persister.dirty = lambda: False  # type: ignore[method-assign]
    return seen


def leaf_of(error: BaseException) -> BaseException:
    """The first error of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


NAMED: Final = {
    "segment": ("log",),
    "pack": ("chunk", "pack"),
    "db": ("database", "refs", "page", "log"),
    "format": ("format",),
}
"""Words of which a refusal must have one, by the first word of the flip's kind."""


def trial(store: Path, known: Seen, where: Flip) -> Outcome:
    """Flip, check, open, read, judge."""
    flip(store, where)
    try:
        report = verify(store).report
        stated = ""
    except StoreError as error:
        report, stated = Report(), str(error)
    try:
        seen = trio.run(_opened, store)
    except BaseException as group:
        error = leaf_of(group)
        if not isinstance(error, (StoreError, Damaged, OSError)):
            return Outcome("wrong", "".join(traceback.format_exception(error))[-1500:])
        words = NAMED.get(where.kind.split(" ")[0], (where.kind,))
        if not any(word in str(error) for word in words):
            return Outcome("wrong", f"refused without a name: {error}")
        if report.clean or not (report.findings or stated):
            return Outcome("wrong", f"refused, and fsck says that it is clean: {error}")
        return Outcome("refused", str(error), True)
    return judge(known, seen, report)


def trial_with_repair(store: Path, known: Seen, where: Flip) -> Outcome:
    """`trial`, then a repair of a second copy that has the same flip, if it did anything."""
    second = store.with_name(store.name + "-repaired")
    copy_store(store, second)
    try:
        outcome = trial(store, known, where)
        if outcome.kind in ("eio", "refused") or outcome.found:
            flip(second, where)
            problem = _repaired(second, known, verify(second).report)
            if problem:
                return Outcome("wrong", problem)
        return outcome
    finally:
        shutil.rmtree(second)


def main(words: list[str]) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="tests.crash.flips")
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--directory", type=Path, default=None)
    parser.add_argument("--keep", action="store_true", help="keep the stores of flips that went wrong")
    parser.add_argument("--repair", action="store_true", help="repair each damaged store, too, and read it again")
    parser.add_argument("--only", default="", help="kinds of places that begin with this")
    given = parser.parse_args(words)
    rng = random.Random(given.seed)
    # No worker has anything to do in a store that is only read.
    WorkerPool.start = lambda self: None  # type: ignore[method-assign]
    directory = Path(tempfile.mkdtemp(prefix="heliosfs-flips-", dir=given.directory))
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    wrong = 0
    try:
        stores = trio.run(make_stores, directory, rng)
        sources = [(store, known, places(store, rng, given.only)) for store, known in stores.items()]
        for number in range(given.flips):
            source, known, flips = sources[number % len(sources)]
            where = next(flips, None)
            if where is None:
                continue
            # Said before: should the process die of it, this was the place.
            print(f"{number} {source.name} {where}", file=sys.stderr, flush=True)
            copy = directory / f"flip-{number}"
            copy_store(source, copy)
            outcome = (trial_with_repair if given.repair else trial)(copy, known, where)
            counts[where.kind][outcome.kind] += 1
            if outcome.kind == "wrong":
                wrong += 1
                line = {"flip": number, "store": source.name, "place": str(where), "reason": outcome.reason}
                print(json.dumps(line), flush=True)
            if outcome.kind != "wrong" or not given.keep:
                shutil.rmtree(copy)
    finally:
        if not (given.keep and wrong):
            shutil.rmtree(directory)
    total: collections.Counter[str] = sum(counts.values(), collections.Counter())
    print(json.dumps({"seed": given.seed, "total": total, "kinds": counts}), flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
