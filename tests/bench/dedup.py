"""LIB figures of what is stored: forks with edits, random data, one byte in a large file, a fork's own cost.

Deduplication is 1 - pack bytes / logical bytes (DECISIONS). Growth counts packs and index after everything is
persisted; what a fork writes counts every byte that this process hands to write(2), log and database included.
"""

from __future__ import annotations

import random
from pathlib import Path

import trio
from blake3 import blake3

from heliosfs.core.ids import NodeId, ViewNo
from heliosfs.filesystem import Filesystem, open_filesystem
from tests.bench.figures import Figure, figure
from tests.bench.plan import Plan
from tests.bench.stores import CALLER, content, directory_bytes, fill, main_view, stored_bytes
from tests.bench.trees import library, library_files

_MEGABYTE = 1 << 20


async def _put(fs: Filesystem, node: NodeId, data: bytes) -> None:
    for at in range(0, len(data), _MEGABYTE):
        await fs.write(node, at, data[at : at + _MEGABYTE], CALLER)


async def _repository(fs: Filesystem, view: ViewNo, plan: Plan) -> dict[bytes, bytes]:
    """Python's library as one branch, by path."""
    names = [name for name in library_files() if (library() / name).is_file()]
    if plan.short:
        names = [name for name in names if (library() / name).stat().st_size < 32_768][: plan.tree_files]
    root = fs.branch_root(view).node
    directories: dict[Path, NodeId] = {Path("."): root}
    contents: dict[bytes, bytes] = {}
    for name in names:
        for parent in reversed(name.parents):
            if parent not in directories:
                above = directories[parent.parent]
                made = await fs.make(above, parent.name.encode(), 0o40755, CALLER)
                directories[parent] = made.node
        data = (library() / name).read_bytes()
        entry = await fs.make(directories[name.parent], name.name.encode(), 0o100644, CALLER)
        await _put(fs, entry.node, data)
        contents[str(name).encode()] = data
    return contents


async def _branches(plan: Plan, directory: Path) -> list[Figure]:
    """Forks of a repository, each with 1 % of its files edited."""
    random_ = random.Random(21)
    async with open_filesystem(directory / "forks", create=True, background=False) as fs:
        view = main_view(fs)
        contents = await _repository(fs, view, plan)
        await fs.wait_persisted()
        expected: list[tuple[ViewNo, dict[bytes, bytes]]] = []
        for number in range(plan.dedup_branches):
            outcome = await fs.fork(view, b"b%d" % number, CALLER)
            branch = outcome.extra["view"]
            assert isinstance(branch, int)
            edits: dict[bytes, bytes] = {}
            for path in random_.sample(sorted(contents), max(1, len(contents) // 100)):
                line = b"# edited in branch %d\n" % number
                at = random_.randrange(len(contents[path]) + 1)
                edits[path] = contents[path][:at] + line + contents[path][at:]
                await _put(fs, (await fs.resolve(ViewNo(branch), path)).node, edits[path])
            expected.append((ViewNo(branch), edits))
        await fs.wait_persisted()
        logical = sum(info.size for info in (fs.branch(view), *fs.children(view)))
        stored = directory_bytes(fs.layout.packs_dir)
        right = logical >= sum(map(len, contents.values())) * (plan.dedup_branches + 1) * 0.99
        for branch_view, edits in expected:
            for path in (*edits, *random_.sample(sorted(contents), 5)):
                data = edits.get(path, contents[path])
                node = (await fs.resolve(branch_view, path)).node
                right = right and await fs.content_hash(node) == "blake3:" + blake3(data).hexdigest()
    saved = (1 - stored / logical) * 100
    name = f"LIB deduplication, {plan.dedup_branches} forks of Python's library, 1 % of the files edited"
    return [figure(name, [saved], "%", above=90, durability="power", verified=right)]


async def _noise(plan: Plan, directory: Path) -> list[Figure]:
    """The control: forks that hold random data of their own."""
    size = 256 << 10 if plan.short else 2 << 20
    async with open_filesystem(directory / "noise", create=True, background=False) as fs:
        view = main_view(fs)
        right = True
        for number in range(plan.dedup_branches):
            outcome = await fs.fork(view, b"b%d" % number, CALLER)
            branch = outcome.extra["view"]
            assert isinstance(branch, int)
            data = random.Random(number).randbytes(size)
            entry = await fs.make(fs.branch_root(ViewNo(branch)).node, b"noise", 0o100644, CALLER)
            await _put(fs, entry.node, data)
            right = right and await fs.content_hash(entry.node) == "blake3:" + blake3(data).hexdigest()
        await fs.wait_persisted()
        stored = directory_bytes(fs.layout.packs_dir)
    saved = (1 - stored / (plan.dedup_branches * size)) * 100
    return [figure("LIB deduplication of random data (control)", [saved], "%", below=1, verified=right)]


async def _one_byte(plan: Plan, directory: Path) -> list[Figure]:
    """A byte changed in place, and a byte inserted by writing the file anew."""
    data = bytearray(random.Random(9).randbytes(plan.big_bytes))
    middle = len(data) // 2
    rows: list[Figure] = []
    async with open_filesystem(directory / "bytes", create=True, background=False) as fs:
        view = main_view(fs)
        node = (await fs.make(fs.branch_root(view).node, b"big", 0o100644, CALLER)).node
        await _put(fs, node, bytes(data))
        await fs.wait_persisted()
        for verb in ("changed", "inserted"):
            await fs.checkpoint(view, None, CALLER)
            before = stored_bytes(fs)
            if verb == "changed":
                data[middle] ^= 1
                await fs.write(node, middle, bytes(data[middle : middle + 1]), CALLER)
            else:
                data.insert(middle, 33)
                await _put(fs, node, bytes(data))
            await fs.wait_persisted()
            grown = stored_bytes(fs) - before
            right = await fs.content_hash(node) == "blake3:" + blake3(bytes(data)).hexdigest()
            name = f"LIB a byte {verb} in {plan.big_bytes >> 20} MiB stores"
            rows.append(
                figure(name, [grown / 1024], "KiB", below=256, durability="power", verified=right and grown > 0)
            )
    return rows


def _written() -> int:
    """Bytes that this process, all threads, has given to write(2) and its kin."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("wchar:"):
            return int(line.split()[1])
    raise OSError("/proc/self/io has no wchar")


async def _fork_of_many(plan: Plan, directory: Path) -> list[Figure]:
    """What a fork of a large tree and the checkpoint after it write until both are persisted."""
    async with open_filesystem(directory / "many", create=True, background=False) as fs:
        view = main_view(fs)
        nodes = await fill(fs, view, plan.largest_files)
        await fs.wait_persisted()
        before = _written()
        outcome = await fs.fork(view, b"fork", CALLER)
        branch = outcome.extra["view"]
        assert isinstance(branch, int)
        await fs.checkpoint(ViewNo(branch), b"first", CALLER)
        await fs.wait_persisted()
        untouched = _written() - before
        before = _written()
        node = (await fs.resolve(ViewNo(branch), b"d00000/f000000")).node
        await fs.write(node, 0, b"edited..", CALLER)
        await fs.checkpoint(ViewNo(branch), b"second", CALLER)
        await fs.wait_persisted()
        edited = _written() - before
        frozen = ViewNo((await fs.snapshot_root(ViewNo(branch), b"second")).node >> 40)
        right = fs.branch(ViewNo(branch)).files == fs.branch(view).files > len(nodes)
        right = right and await content(fs, frozen, 0) == b"edited.." and await content(fs, view, 0) == b"00000000"
        last = len(nodes) - 1
        right = right and await content(fs, frozen, last) == b"%08d" % last
    name = f"LIB written by a fork of {plan.largest_files} files and a checkpoint"
    return [
        figure(f"{name} of it", [untouched / 1024], "KiB", below=64, durability="power", verified=right),
        figure(f"{name} after an edit", [edited / 1024], "KiB", below=64, durability="power", verified=right),
    ]


def run(plan: Plan) -> list[Figure]:
    """All figures of this module."""
    directory = plan.directory / "dedup"
    directory.mkdir()
    rows: list[Figure] = []
    for part in (_branches, _noise, _one_byte, _fork_of_many):
        rows += trio.run(part, plan, directory)
    return rows
