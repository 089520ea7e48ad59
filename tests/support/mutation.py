"""Fuzzing with Hypothesis: valid bytes, changed where decoders believe them, and a corpus of what once broke one.

A corpus is a directory below tests/fuzz/corpus; every file of it is tried as it is, and mutated. A short form runs
in the test-suite; `HELIOSFS_FUZZ=N` asks for N examples of each target. Sums that guard a format are put right
again by the target, or nothing behind them would ever be reached.
"""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CORPUS = Path(__file__).resolve().parents[1] / "fuzz" / "corpus"
EXAMPLES = int(os.environ.get("HELIOSFS_FUZZ", "60"))
_WIDTHS = (1, 2, 4, 8)
_T = TypeVar("_T")


def corpus(name: str) -> list[bytes]:
    """What is kept for a target, by file name."""
    directory = CORPUS / name
    return [path.read_bytes() for path in sorted(directory.iterdir())] if directory.is_dir() else []


def _numbers(width: int) -> st.SearchStrategy[int]:
    top = 1 << 8 * width
    edges = (0, 1, 2, top - 1, top - 2, top >> 1, (top >> 1) - 1, 63, 64, 65, 255, 4096)
    return st.one_of(st.sampled_from([edge % top for edge in edges]), st.integers(0, top - 1))


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A seed with up to four changes: bits, numbers of any width, bytes taken out, doubled, put in, cut off."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        what = draw(st.integers(0, 6))
        if what == 0 and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what in (1, 2):
            width = draw(st.sampled_from(_WIDTHS))
            data[at : at + width] = draw(_numbers(width)).to_bytes(width, "little")
        elif what == 3:
            del data[at : at + draw(st.integers(1, 64))]
        elif what == 4:
            data[at:at] = data[at : at + draw(st.integers(1, 200))] * draw(st.integers(1, 20))
        elif what == 5:
            data[at:at] = draw(st.binary(min_size=1, max_size=40))
        else:
            del data[at:]
    return bytes(data)


def fuzzed(
    name: str, seeds: Sequence[bytes], *, text: str = "", weight: int = 1
) -> Callable[[Callable[[bytes], None]], Callable[[], None]]:
    """Run a function that takes bytes on seeds, the corpus, both mutated, and on noise.

    Args:
        name: Of the corpus.
        text: Characters that noise is made of; "": any bytes.
        weight: The function costs so much more than most; it gets fewer examples.
    """
    kept = corpus(name)
    noise = st.text(text, max_size=200).map(str.encode) if text else st.binary(max_size=300)
    inputs = st.one_of(mutated([*seeds, *kept]), noise)

    def decorate(target: Callable[[bytes], None]) -> Callable[[], None]:
        @settings(max_examples=max(EXAMPLES // weight, 10), deadline=None, suppress_health_check=list(HealthCheck))
        @given(inputs)
        def generated(data: bytes) -> None:
            target(data)

        def test() -> None:
            for data in (*seeds, *kept):
                target(data)
            generated()

        test.__doc__ = target.__doc__
        test.__name__ = target.__name__
        return test

    return decorate


@contextmanager
def memory_below(limit_bytes: int) -> Iterator[None]:
    """What is allocated within peaks below a limit: no decoder believes a length before it has the bytes."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit_bytes, f"{peak} bytes"
