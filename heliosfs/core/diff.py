"""What differs between two versions of a tree, in time proportional to the difference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from heliosfs.core import directory, radix
from heliosfs.core.ids import Ino, ViewNo
from heliosfs.core.inode import Inode, same_record
from heliosfs.core.radix import Pages
from heliosfs.core.view import State, View

STEP: Final = 64
"""Inodes that are compared in one go: 0.1 ms where their pages are in memory."""

Difference: TypeAlias = tuple[Ino, Inode | None, Inode | None]
"""(inode number, version in the old tree or None, version in the new tree or None)."""


class Change(NamedTuple):
    """Something that a kernel must forget.

    Attributes:
        ino: The inode; 0: every node of a view that has died.
        data: Its pages too, not its attributes alone.
        names: Entries of this directory that lead elsewhere now, or nowhere.
        gone: The inode has left the view.
        grown: New size of a regular file that was shorter, else 0.
    """

    view: ViewNo
    ino: Ino
    data: bool
    names: tuple[bytes, ...]
    gone: bool = False
    grown: int = 0


def differences(old: View | State, new: View | State, pages: Pages) -> Iterator[Difference]:
    """Inodes whose records differ. O(differing inodes + overlays where no common ancestor is in memory)."""
    for found in difference_steps(old, new, pages):
        if found is not None:
            yield found


def difference_steps(old: View | State, new: View | State, pages: Pages) -> Iterator[Difference | None]:
    """As `differences`, with a None after each STEP inodes that were looked at: others may have a turn there.

    Between two states, which never change, whatever happens meanwhile; not of a view.
    """
    for looked, ino in enumerate(_candidates(old, new, pages), 1):
        if not looked % STEP:
            yield None
        before = old.get(ino, pages)
        after = new.get(ino, pages)
        if not same_record(before, after):
            yield ino, before, after


def _candidates(old: View | State, new: View | State, pages: Pages) -> Iterator[Ino]:
    """Each once."""
    below = _deltas_down_to(old, new)
    if below is None:
        below = _deltas_down_to(new, old)
    if below is not None:
        yield from below
        return
    found: set[Ino] = set()
    base, other = old.base, new.base
    if old.overlay is not new.overlay:
        found.update(old.overlay, new.overlay)
        yield from found
    for key, _, _ in radix.difference(base, other, pages):
        if key not in found:
            yield Ino(key)


@dataclass(slots=True)
class Comparison:
    """What differs between two states, found while other things went on.

    Attributes:
        old: A branch as it was. new: What it is to become.
        found: By inode number.
    """

    old: State
    new: State
    found: dict[Ino, Difference]

    def of(self, head: View, pages: Pages) -> list[Difference] | None:
        """What differs between the branch as it is now and `new`; None if it has to be found from the start.

        O(changes to the branch since + differences). Raises NeedPages.
        """
        since = _deltas_down_to(head, self.old)
        if since is None:
            return None
        if not since:
            return list(self.found.values())
        found = dict(self.found)
        for ino in since:
            before, after = head.get(ino, pages), self.new.get(ino, pages)
            if same_record(before, after):
                found.pop(ino, None)
            else:
                found[ino] = (ino, before, after)
        return list(found.values())


def _deltas_down_to(top: View | State, ancestor: View | State) -> set[Ino] | None:
    """Numbers changed between an ancestor and `top`; None if it is none (or is stored already)."""
    if top is ancestor:
        return set()
    found: set[Ino] = set(top.changed if isinstance(top, View) else top.delta)
    state = top.parent
    while state is not None:
        if state is ancestor:
            return found
        found.update(state.delta)
        state = state.parent
    return None


def kernel_changes(view: ViewNo, found: list[Difference], pages: Pages) -> list[Change]:
    """What a kernel that has cached the old version must forget of each inode."""
    changes: list[Change] = []
    for ino, before, after in found:
        if after is None:
            changes.append(Change(view, ino, True, (), gone=True))
        elif before is None:
            changes.append(Change(view, ino, True, ()))
        elif after.is_dir():
            names = tuple(directory.differing_names(before.tree, after.tree, pages))
            changes.append(Change(view, ino, False, names))
        else:
            data = before.tree is not after.tree or before.size != after.size
            grown = after.size if after.is_file() and after.size > before.size else 0
            changes.append(Change(view, ino, data, (), grown=grown))
    return changes


def content_changes(view: ViewNo, found: list[Difference]) -> list[Change]:
    """Files that are about to get other content: what is dirty in a mapping must be written back first."""
    return [
        Change(view, ino, True, ())
        for ino, before, after in found
        if before is not None and before.is_file() and after is not None and before.tree is not after.tree
    ]
