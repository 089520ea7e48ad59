"""What a store shows against what the model says: differences in words, and what the model learns.

Must not know: how either came about.
"""

from __future__ import annotations

import re
from typing import Any

from tests.crash.soak.model import Model, Node, Snapshot

_AUTOMATIC = re.compile(rb"(import-)?[0-9]{8}T[0-9]{6}\.[0-9]{6}Z(-[0-9]+)?\Z")
_FIELDS = ("mode", "uid", "inode number", "links", "size", "mtime", "content", "xattrs")


def differences(model: Model, shown: dict[bytes, Any]) -> list[str]:
    """One line for each difference; [] if none. Names and inode numbers that the model lacks are filled in."""
    wrong = [f"branch {path!r} is missing" for path in model.branches.keys() - shown.keys()]
    wrong += [f"branch {path!r} is there" for path in shown.keys() - model.branches.keys()]
    for path, branch in model.branches.items():
        if path not in shown:
            continue
        latest, snapshots, tree = shown[path]
        wrong += [f"{path!r}: {line}" for line in _tree(branch.root, tree)]
        wrong += [f"{path!r}: {line}" for line in _snapshots(branch.snapshots, snapshots)]
        expected = branch.latest.name if branch.latest is not None else None
        if not wrong and latest != expected:
            wrong.append(f"{path!r}: latest is {latest!r}, not {expected!r}")
    return wrong


def _snapshots(expected: list[Snapshot], shown: Any) -> list[str]:
    # Both are in the order of time, a record's second one, if any, with the next number; but by name they
    # are compared, for one that was renamed keeps its place.
    wrong = []
    known = {s.name for s in expected if s.name is not None}
    spare = [name for name, _, _ in shown if name not in known and _AUTOMATIC.match(name)]
    for snapshot in expected:
        if snapshot.name is None and spare:
            snapshot.call(spare.pop(0))
    by_name = {name: (kind, tree) for name, kind, tree in shown}
    for snapshot in expected:
        if snapshot.name not in by_name:
            wrong.append(f"snapshot {snapshot.name!r} is missing")
            continue
        kind, tree = by_name.pop(snapshot.name)
        if kind not in (None, snapshot.kind):
            wrong.append(f"snapshot {snapshot.name!r} is of kind {kind}, not {snapshot.kind}")
        if tree is not None:
            wrong += [f"@{snapshot.name!r}: {line}" for line in _tree(snapshot.root, tree)]
    return wrong + [f"snapshot {name!r} is there" for name in by_name]


def _tree(root: Node, shown: dict[tuple[bytes, ...], Any]) -> list[str]:
    wrong = []
    expected = dict(root.paths())
    wrong += [f"{path} is missing" for path in expected.keys() - shown.keys()]
    wrong += [f"{path} is there" for path in shown.keys() - expected.keys()]
    links: dict[int, int] = {}
    for node in expected.values():
        links[id(node)] = links.get(id(node), 0) + 1
    for path, node in expected.items():
        found = shown.get(path)
        if found is None:
            continue
        if node.is_dir():
            count = 2 + sum(below.is_dir() for below in node.names.values())
            wanted = (node.mode, node.uid, node.ino, count, len(node.names), node.mtime_ns, b"")
        else:
            size = len(node.data) if node.data else len(node.target)
            content = node.target or (node.content() if node.mode >> 12 == 0o10 else b"")
            wanted = (node.mode, node.uid, node.ino, links[id(node)], size, node.mtime_ns, content)
        wanted = (*wanted, tuple(sorted(node.xattrs.items())))
        node.ino = node.ino or found[2]
        if node.uid is None:
            node.uid = found[1]
        for label, mine, theirs in zip(_FIELDS, wanted, found, strict=True):
            if mine != theirs and mine is not None and not (label == "inode number" and mine == 0):
                wrong.append(f"{path}: {label} is {theirs!r}, not {mine!r}")
    return wrong
