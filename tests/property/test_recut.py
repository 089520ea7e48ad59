"""A file that is cut again around its changes has the chunks of one that is cut from scratch."""

from __future__ import annotations

import random
import stat

import pytest

from heliosfs.core import radix, ranges
from heliosfs.core.ids import Ino, ViewNo
from tests.support.corelab import CoreLab, assert_canonical

KIB = 1024


@pytest.mark.parametrize("seed", range(40))
def test_any_edits_between_cuts(seed: int) -> None:
    rng = random.Random(seed)
    lab = CoreLab()
    view = lab.main
    ino = lab.make(view, b"f", stat.S_IFREG | 0o644).ino
    # Zeros are cut at the greatest length: a boundary that an edit makes shifts all behind it, to the end.
    content = bytearray(rng.choice([0, 500, 900]) * KIB)
    if content:
        lab.write(view, ino, 0, bytes(content))
        lab.cut()
    for _ in range(rng.choice([3, 10])):
        for _ in range(rng.choice([1, 2, 6, 20])):
            size = rng.choice([1, 100, 70 * KIB, 200 * KIB])
            at = rng.randrange(900 * KIB)
            if rng.random() < 0.15:
                lab.truncate(view, ino, at)
                del content[at:]
                content.extend(bytes(at - len(content)))
                continue
            data = rng.randbytes(size)
            lab.write(view, ino, at, data)
            content.extend(bytes(max(at - len(content), 0)))
            content[at : at + size] = data
        lab.cut()
        assert lab.read(view, ino) == bytes(content)
        lab.check()
        assert_canonical(lab, view)


@pytest.mark.parametrize("seed", range(40))
def test_pieces_joined_at_the_boundaries_of_chunks(seed: int) -> None:
    """Copies, collapses and insertions whose ends are ends of chunks, where nothing looks as if it had changed."""
    rng = random.Random(seed)
    lab = CoreLab()
    view = lab.main
    inos = [lab.make(view, name, stat.S_IFREG | 0o644).ino for name in (b"a", b"b", b"c")]
    contents = [bytearray(rng.randbytes(rng.choice([20, 400, 900]) * KIB)) for _ in inos]
    for ino, content in zip(inos, contents, strict=True):
        lab.write(view, ino, 0, bytes(content))
    lab.cut()
    for _ in range(6):
        for _ in range(rng.choice([1, 3])):
            source, target = rng.sample(range(3), 2)
            begin, end = sorted(rng.choices(_edges(lab, view, inos[source]), k=2))
            to = rng.choice(_edges(lab, view, inos[target]))
            copied = lab.copy((view, inos[source]), begin, (view, inos[target]), to, end - begin)
            assert copied == end - begin
            contents[target].extend(bytes(max(to - len(contents[target]), 0)))
            contents[target][to : to + copied] = contents[source][begin:end]
            _collapse_or_insert(rng, lab, inos[target], contents[target])
        lab.cut()
        lab.check()
        for ino, content in zip(inos, contents, strict=True):
            assert lab.read(view, ino) == bytes(content)
        assert_canonical(lab, view)


def _edges(lab: CoreLab, view: ViewNo, ino: Ino) -> list[int]:
    """Where its extents begin and end."""
    inode = lab.engine.inode(view, ino)
    return [0, inode.size, *(at for at, _ in radix.items(inode.tree, lab.pages))]


def _collapse_or_insert(rng: random.Random, lab: CoreLab, ino: Ino, content: bytearray) -> None:
    blocks = len(content) // ranges.BLOCK
    if blocks < 3 or rng.random() < 0.5:
        return
    at, length = rng.randrange(blocks - 1) * ranges.BLOCK, ranges.BLOCK
    if rng.random() < 0.5:
        lab.fallocate(lab.main, ino, ranges.INSERT_RANGE, at, length)
        content[at:at] = bytes(length)
    else:
        lab.fallocate(lab.main, ino, ranges.COLLAPSE_RANGE, at, length)
        del content[at : at + length]
