"""File handles: the node's id and what WRITE does not say about how the file was opened.

Invariant: a handle is the node id with a bit for O_APPEND and needs nothing kept here, but of a file opened with
O_DIRECT it is a number that no node has, kept until RELEASE. Must not know: what is read or written.
"""

from __future__ import annotations

import itertools
import os
from typing import Final

from heliosfs.core.ids import INO_MASK, NodeId

_APPENDING: Final = 1 << 63
_NODE: Final = _APPENDING - 1


class OpenHandles:
    """The handles of one session's open files."""

    def __init__(self) -> None:
        self._direct: dict[int, int] = {}
        # No node of the control tree is opened for appending, so its view with that bit is free: 2**40 numbers.
        self._numbers = itertools.count(1)

    def make(self, node: NodeId, flags: int) -> int:
        """The handle of a file opened with these flags of open(2). O(1)."""
        plain = node | _APPENDING if flags & os.O_APPEND else node
        if not flags & os.O_DIRECT:
            return plain
        handle = _APPENDING | (next(self._numbers) & INO_MASK)
        self._direct[handle] = plain
        return handle

    def node(self, handle: int) -> NodeId:
        """The file or directory that a handle belongs to."""
        return NodeId(self._direct.get(handle, handle) & _NODE)

    def appends(self, handle: int) -> bool:
        """Was it opened with O_APPEND?"""
        return self._direct.get(handle, handle) >= _APPENDING

    def direct(self, handle: int) -> bool:
        """Was it opened with O_DIRECT? What fcntl(2) sets later is not seen."""
        return handle in self._direct

    def release(self, handle: int) -> None:
        """The last descriptor is closed."""
        self._direct.pop(handle, None)
