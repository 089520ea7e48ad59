"""Walks as deep as somebody's tree: recursion written as generators, run on a list instead of the call stack.

A user may nest directories without bound, and a rule that overflows the interpreter's stack after its record
was appended could never be replayed. Must not know: what walks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

Walk: TypeAlias = "Iterator[Walk | None]"
"""A step of a walk: it yields a walk to be carried out before it goes on, or None for a breath."""


def breaths(walk: Walk) -> Iterator[None]:
    """Carry out a walk; yields where it, or one within it, yields None. Depth costs memory alone."""
    stack = [walk]
    while stack:
        try:
            inner = next(stack[-1])
        except StopIteration:
            stack.pop()
            continue
        if inner is None:
            yield
        else:
            stack.append(inner)


def run(walk: Walk) -> None:
    """Carry out a walk in one go."""
    for _ in breaths(walk):
        pass
