"""A file that is cut again around its changes has the chunks of one that is cut from scratch."""

from __future__ import annotations

import random
import stat

import pytest

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
