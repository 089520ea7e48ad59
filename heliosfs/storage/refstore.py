"""Refs in RocksDB: branches, snapshots, counters, the log position, and operation-log lines.

Canonical JSON values (docs/format/refs.md). One batch holds all refs of a cut with its position: writing it
is the commit point (DESIGN "L2"). Must not know: pages, chunks, how a cut is made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from rocksdict import Rdict, WriteBatch

from cas import database
from heliosfs.core.cut import BranchCut, Cut, SnapshotCut
from heliosfs.core.engine import Engine
from heliosfs.core.errors import Damaged
from heliosfs.core.ids import BranchId, Ino, Lsn, PageId, SnapshotId, ViewNo
from heliosfs.core.refs import Branch, Snapshot
from heliosfs.core.view import State, View

HEAD: Final = b"r!head"
_BRANCH: Final = b"rb"
_SNAPSHOT: Final = b"rs"
_EVENT: Final = b"o"


@dataclass(slots=True, frozen=True)
class Stored:
    """What the store says of itself.

    Attributes:
        position: Replay starts here.
        orphans: By branch: page id of the table of unlinked inodes.
    """

    position: Lsn
    orphans: dict[BranchId, PageId]


def commit_batch(cut: Cut, roots: dict[int, PageId], orphans: dict[BranchId, PageId]) -> WriteBatch:
    """The batch whose write makes a cut true."""
    batch = WriteBatch(raw_mode=True)
    for branch_id in cut.dropped_branches:
        batch.delete(_branch_key(branch_id))
    for branch_id, snapshot_id in cut.dropped_snapshots:
        batch.delete(_snapshot_key(branch_id, snapshot_id))
    for branch_cut in cut.branches:
        batch.put(_branch_key(branch_cut.branch.id), _dump(_branch_value(branch_cut, roots, orphans)))
    for snapshot_cut in cut.snapshots:
        snapshot = snapshot_cut.snapshot
        batch.put(_snapshot_key(snapshot.branch, snapshot.id), _dump(_snapshot_value(snapshot_cut, roots)))
    for event in cut.events:
        batch.put(_EVENT + event.lsn.to_bytes(8, "big"), _dump(event.line()))
    head = {
        "position": cut.position,
        "next_ino": cut.next_ino,
        "next_view": cut.next_view,
        "next_branch": cut.next_branch,
        "last_ns": cut.last_ns,
    }
    batch.put(HEAD, _dump(head))
    return batch


def load(db: Rdict, engine: Engine) -> Stored | None:
    """Fill an engine with the stored refs. None for a store that never had a cut. Raises Damaged."""
    try:
        raw = db.get(HEAD)
    except Exception as error:
        # RocksDB's have no class.
        raise Damaged("refs", f"the refs of the store can't be read: {error}") from error
    if raw is None:
        return None
    try:
        head = json.loads(raw)
        engine.next_ino = Ino(head["next_ino"])
        engine.next_view = ViewNo(head["next_view"])
        engine.next_branch = BranchId(head["next_branch"])
        engine.last_ns = head["last_ns"]
        position = Lsn(head["position"])
        orphans = _load_branches(db, engine)
        _load_snapshots(db, engine)
        _link_latest(db, engine)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise Damaged("refs", f"the refs of the store are damaged: {error!r}") from error
    except OSError as error:
        raise Damaged("refs", f"the refs of the store can't be read: {error.strerror}") from error
    return Stored(position, orphans)


def events(db: Rdict, limit: int) -> list[dict[str, object]]:
    """The newest stored operation-log lines, oldest first. O(limit). Raises OSError (EIO): they can't be read."""
    found: list[dict[str, object]] = []
    iterator = db.iter()
    iterator.seek_for_prev(_EVENT + b"\xff" * 8)
    while len(found) < limit and iterator.valid():
        if iterator.key()[:1] != _EVENT:
            break
        found.append(json.loads(iterator.value()))
        iterator.prev()
    if not iterator.valid():
        database.check(iterator)
    found.reverse()
    return found


def _branch_value(cut: BranchCut, roots: dict[int, PageId], orphans: dict[BranchId, PageId]) -> dict[str, Any]:
    branch = cut.branch
    root = cut.state.root if cut.state.root is not None else roots[id(cut.state)]
    orphan_page = orphans.get(branch.id)
    return {
        "id": branch.id,
        "name": cut.name.decode(),
        "parent": branch.parent.id if branch.parent is not None else 0,
        "view": branch.view,
        "root": root.hex(),
        "files": cut.state.files,
        "size_bytes": cut.state.size_bytes,
        "uid": cut.uid,
        "gid": cut.gid,
        "created_ns": branch.created_ns,
        "latest": cut.latest,
        "next_ino": cut.next_ino,
        "lease_end": cut.lease_end,
        "generations": sorted(cut.generations.items()),
        "orphans": orphan_page.hex() if orphan_page is not None else "",
    }


def _snapshot_value(cut: SnapshotCut, roots: dict[int, PageId]) -> dict[str, Any]:
    snapshot = cut.snapshot
    state = snapshot.state
    root = state.root if state.root is not None else roots[id(state)]
    return {
        "id": snapshot.id,
        "branch": snapshot.branch,
        "name": cut.name.decode(),
        "time_ns": snapshot.time_ns,
        "kind": snapshot.kind,
        "root": root.hex(),
        "files": state.files,
        "size_bytes": state.size_bytes,
        "view": cut.view,
        "position": snapshot.position,
    }


def _load_branches(db: Rdict, engine: Engine) -> dict[BranchId, PageId]:
    values = {value["id"]: value for value in _values(db, _BRANCH)}
    made: dict[int, Branch] = {}
    orphans: dict[BranchId, PageId] = {}

    def make(id_: int) -> Branch:
        if id_ in made:
            return made[id_]
        value = values[id_]
        parent = make(value["parent"]) if value["parent"] else None
        state = State.stored(PageId(bytes.fromhex(value["root"])), value["files"], value["size_bytes"])
        branch = Branch(
            BranchId(id_),
            value["name"].encode(),
            parent,
            ViewNo(value["view"]),
            View(state, Lsn(1)),
            value["uid"],
            value["gid"],
            value["created_ns"],
        )
        branch.next_ino = Ino(value["next_ino"])
        branch.lease_end = Ino(value["lease_end"])
        branch.generations = {Ino(ino): generation for ino, generation in value["generations"]}
        if value["orphans"]:
            orphans[branch.id] = PageId(bytes.fromhex(value["orphans"]))
        if parent is None:
            engine.main = branch
        else:
            parent.children[branch.name] = branch
        made[id_] = branch
        engine.branches[branch.view] = branch
        return branch

    for id_ in sorted(values):
        make(id_)
    return orphans


def _load_snapshots(db: Rdict, engine: Engine) -> None:
    by_id = {branch.id: branch for branch in engine.branches.values()}
    for value in _values(db, _SNAPSHOT):
        branch = by_id[value["branch"]]
        state = State.stored(PageId(bytes.fromhex(value["root"])), value["files"], value["size_bytes"])
        snapshot = Snapshot(
            SnapshotId(value["id"]),
            branch.id,
            value["name"].encode(),
            value["time_ns"],
            value["kind"],
            state,
            Lsn(value["position"]),
        )
        if value["view"]:
            snapshot.view = ViewNo(value["view"])
            engine.snapshot_views[snapshot.view] = snapshot
        branch.snapshots[snapshot.name] = snapshot
        branch.by_id[snapshot.id] = snapshot


def _link_latest(db: Rdict, engine: Engine) -> None:
    latest = {value["id"]: value["latest"] for value in _values(db, _BRANCH)}
    for branch in engine.branches.values():
        wanted = latest[branch.id]
        if wanted:
            branch.latest = branch.by_id.get(wanted)


def _values(db: Rdict, prefix: bytes) -> Iterator[dict[str, Any]]:
    for _, value in database.records(db, prefix):
        yield json.loads(value)


def _branch_key(branch: BranchId) -> bytes:
    return _BRANCH + branch.to_bytes(8, "big")


def _snapshot_key(branch: BranchId, snapshot: SnapshotId) -> bytes:
    return _SNAPSHOT + branch.to_bytes(8, "big") + snapshot.to_bytes(8, "big")


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
