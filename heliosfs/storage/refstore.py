"""Refs in RocksDB: branches, snapshots, counters, the log position, and operation-log lines.

Canonical JSON values (docs/format/refs.md). One batch holds all refs of a cut with its position: writing it
is the commit point (DESIGN "L2"). Must not know: pages, chunks, how a cut is made.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from rocksdict import Rdict, WriteBatch

from cas import database
from cas.database import Database
from heliosfs.core import unanswered
from heliosfs.core.cut import BranchCut, Cut, SnapshotCut
from heliosfs.core.engine import Engine
from heliosfs.core.errors import Damaged, FsError
from heliosfs.core.ids import INO_BITS, BranchId, Ino, Lsn, PageId, SnapshotId, ViewNo
from heliosfs.core.inode import MAX_SIZE
from heliosfs.core.oplog import SNAPSHOT_KINDS
from heliosfs.core.refs import Branch, Snapshot
from heliosfs.core.retention import Retention
from heliosfs.core.view import State, View
from heliosfs.storage.librarian import Librarian

HEAD: Final = b"r!head"
BRANCH: Final = b"rb"
SNAPSHOT: Final = b"rs"
_EVENT: Final = b"o"
LOST: Final = b"q"
"""Of what stands for bytes that a cut could not read."""
REACH: Final = 20_000
"""Lines of the operation log that are looked at for one branch's: 20 ms."""
_BATCH: Final = 500
"""Values parsed together."""
_BYTES_OF_A_TREE: Final = (1 << INO_BITS) * (MAX_SIZE + 1)
"""More than the files of any tree have together: sparse ones cost nothing, so 64 bits are no bound."""


@dataclass(slots=True, frozen=True)
class Stored:
    """What the store says of itself.

    Attributes:
        head: The value that says all of this, as it is stored: no two cuts have the same.
        position: Replay starts here.
        orphans: By branch: page id of the table of unlinked inodes.
    """

    head: bytes
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
        batch.put(_branch_key(branch_cut.branch.id), dump(_branch_value(branch_cut, roots, orphans)))
    for snapshot_cut in cut.snapshots:
        snapshot = snapshot_cut.snapshot
        batch.put(_snapshot_key(snapshot.branch, snapshot.id), dump(_snapshot_value(snapshot_cut, roots)))
    for event in cut.events:
        batch.put(_EVENT + event.lsn.to_bytes(8, "big"), dump(event.line()))
    head: dict[str, Any] = {
        "position": cut.position,
        "next_ino": cut.next_ino,
        "next_view": cut.next_view,
        "next_branch": cut.next_branch,
        "last_ns": cut.last_ns,
    }
    if cut.unanswered:
        head["unanswered"] = unanswered.to_json(cut.unanswered)
    batch.put(HEAD, dump(head))
    return batch


def put_lost(batch: WriteBatch, id_: bytes, length: int, source: str, reason: str) -> None:
    """Note, with the cut that gives them up, what the chunk id `id_` stands for."""
    batch.put(LOST + id_, dump({"length": length, "reason": reason, "source": source}))


def lost(db: Database | Rdict) -> dict[bytes, dict[str, Any]]:
    """What cuts have given up: chunk id -> length, source, reason. Raises OSError (EIO): it can't be read."""
    return {key[len(LOST) :]: json.loads(value) for key, value in database.records(db, LOST)}


def load(db: Database | Rdict | Librarian, engine: Engine) -> Stored | None:
    """Fill an engine with the stored refs. None for a store that never had a cut. Raises Damaged.

    O(branches + snapshots), 6 us each.
    """
    try:
        raw = db.get(HEAD)
    except Exception as error:
        # RocksDB's have no class.
        raise Damaged("refs", f"the refs of the store can't be read: {error}") from error
    if raw is None:
        return None
    collecting = gc.isenabled()
    gc.disable()
    # Thousands of objects that stay: collections would look at all of them again and again, and find nothing.
    try:
        (head,) = _parsed([raw])
        engine.next_ino = Ino(_number(head, "next_ino"))
        engine.next_view = ViewNo(_number(head, "next_view"))
        engine.next_branch = BranchId(_number(head, "next_branch"))
        engine.last_ns = _number(head, "last_ns")
        engine.unanswered = unanswered.from_json(head.get("unanswered", ()))
        position = Lsn(_number(head, "position"))
        branches = list(_values(db, BRANCH))
        orphans = _load_branches(branches, engine)
        _load_snapshots(db, engine)
        _link_latest(branches, engine)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise Damaged("refs", f"the refs of the store are damaged: {error!r}") from error
    except OSError as error:
        raise Damaged("refs", f"the refs of the store can't be read: {error.strerror}") from error
    finally:
        if collecting:
            gc.enable()
    return Stored(raw, position, orphans)


def events(db: Database | Rdict, limit: int) -> list[dict[str, object]]:
    """The newest stored operation-log lines, oldest first. O(limit).

    Raises:
        OSError (EIO): They can't be read. Damaged: one is no line.
    """
    found: list[dict[str, object]] = []
    iterator = db.iter()
    iterator.seek_for_prev(_EVENT + b"\xff" * 8)
    while len(found) < limit and iterator.valid():
        if iterator.key()[:1] != _EVENT:
            break
        found.extend(_events_parsed([iterator.value()]))
        iterator.prev()
    if not iterator.valid():
        database.check(iterator)
    found.reverse()
    return found


def events_of(db: Database | Rdict, path: str, since_ns: int, limit: int) -> list[dict[str, object]]:
    """The newest stored lines of the branch with this path and those below it, made since, oldest first.

    Looks at no more than REACH lines, whoever's they are: 1 us each, and 5 us for each that is taken.
    """
    found: list[dict[str, object]] = []
    # Canonical JSON with sorted keys begins with the branch: others' lines need not be parsed.
    wanted = dump({"branch": path})[:-2]
    iterator = db.iter()
    iterator.seek_for_prev(_EVENT + b"\xff" * 8)
    for _ in range(REACH):
        if len(found) == limit or not iterator.valid() or iterator.key()[:1] != _EVENT:
            break
        value = iterator.value()
        if value.startswith(wanted):
            (line,) = _events_parsed([value])
            name = line["branch"]
            if name == path or (isinstance(name, str) and name.startswith(path + "/")):
                if int(str(line["time_ns"])) < since_ns:
                    break
                found.append(line)
        iterator.prev()
    if not iterator.valid():
        database.check(iterator)
    found.reverse()
    return found


def _events_parsed(values: list[bytes]) -> list[dict[str, object]]:
    """Lines of the operation log. Raises Damaged."""
    try:
        found = _parsed(values)
        for line in found:
            _number(line, "time_ns")
    except (ValueError, KeyError, RecursionError) as error:
        raise Damaged("operation log", f"a line of the operation log is damaged: {error!r}") from error
    return found


def roots(db: Database | Rdict) -> Iterator[PageId]:
    """The trees that the stored refs name, tables of unlinked files included. 6 us each. Damaged, OSError (EIO)."""
    try:
        for prefix in (BRANCH, SNAPSHOT):
            for value in _values(db, prefix):
                yield _page(value["root"])
                if value.get("orphans"):
                    yield _page(value["orphans"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged("refs", f"the refs of the store are damaged: {error!r}") from error


def _retention_value(policy: Retention) -> dict[str, int | str]:
    return {
        "keep_last": policy.keep_last,
        "hourly": policy.hourly,
        "daily": policy.daily,
        "weekly": policy.weekly,
        "match": policy.match.decode(),
    }


def _retention(value: dict[str, Any] | None) -> Retention | None:
    """Raises ValueError, KeyError, TypeError."""
    if value is None:
        return None
    keep_last, hourly, daily, weekly = [_number(value, key) for key in ("keep_last", "hourly", "daily", "weekly")]
    policy = Retention(keep_last, hourly, daily, weekly, value["match"].encode())
    try:
        policy.check()
    except FsError as error:
        raise ValueError(str(error)) from error
    return policy


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
        **({"retention": _retention_value(cut.retention)} if cut.retention is not None else {}),
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


def _load_branches(values: list[dict[str, Any]], engine: Engine) -> dict[BranchId, PageId]:
    made: dict[int, Branch] = {}
    orphans: dict[BranchId, PageId] = {}
    # By rising ids: a parent's is lower than its children's.
    for value in sorted(values, key=lambda value: _number(value, "id")):
        id_ = value["id"]
        parent = made[value["parent"]] if value["parent"] else None
        branch = Branch(
            BranchId(id_),
            _name(value),
            parent,
            ViewNo(_number(value, "view")),
            View(_state(value), Lsn(1)),
            _number(value, "uid"),
            _number(value, "gid"),
            _number(value, "created_ns"),
        )
        branch.next_ino = Ino(_number(value, "next_ino"))
        branch.lease_end = Ino(_number(value, "lease_end"))
        branch.retention = _retention(value.get("retention"))
        branch.generations = {Ino(ino): generation for ino, generation in value["generations"]}
        if value["orphans"]:
            orphans[branch.id] = _page(value["orphans"])
            branch.orphans_stored = True
        if id_ in made or branch.view in engine.branches or (parent is None) != (engine.main is None):
            raise ValueError(f"branch {id_} is not alone")
        if parent is None:
            engine.main = branch
        elif branch.name in parent.children:
            raise ValueError(f"branch {id_} has another one's name")
        else:
            parent.children[branch.name] = branch
        made[id_] = branch
        engine.add_branch(branch)
    if engine.main is None:
        raise ValueError("there is no first branch")
    return orphans


def _load_snapshots(db: Database | Rdict | Librarian, engine: Engine) -> None:
    by_id = engine.by_id
    for value in _values(db, SNAPSHOT):
        branch = by_id[BranchId(value["branch"])]
        snapshot = Snapshot(
            SnapshotId(_number(value, "id")),
            branch.id,
            _name(value),
            _number(value, "time_ns"),
            range(len(SNAPSHOT_KINDS)).index(value["kind"]),
            _state(value),
            Lsn(_number(value, "position")),
        )
        if value["view"]:
            snapshot.view = ViewNo(_number(value, "view"))
            if snapshot.view in engine.branches or snapshot.view in engine.snapshot_views:
                raise ValueError(f"view {snapshot.view} is two things")
            engine.snapshot_views[snapshot.view] = snapshot
        if snapshot.name in branch.snapshots or snapshot.id in branch.by_id:
            raise ValueError(f"two snapshots {snapshot.name!r}")
        branch.snapshots[snapshot.name] = snapshot
        branch.by_id[snapshot.id] = snapshot


def _link_latest(values: list[dict[str, Any]], engine: Engine) -> None:
    latest = {value["id"]: value["latest"] for value in values}
    for branch in engine.branches.values():
        wanted = latest[branch.id]
        if wanted:
            branch.latest = branch.by_id.get(wanted)


def _values(db: Database | Rdict | Librarian, prefix: bytes) -> Iterator[dict[str, Any]]:
    batch: list[bytes] = []
    for _, value in database.records(db, prefix):
        batch.append(value)
        if len(batch) == _BATCH:
            yield from _parsed(batch)
            batch = []
    yield from _parsed(batch)


def _parsed(values: list[bytes]) -> list[dict[str, Any]]:
    """Several values in one call of the parser, twice as fast as one by one. Raises ValueError, RecursionError."""
    found = json.loads(b"[" + b",".join(values) + b"]")
    if len(found) != len(values) or not all(type(value) is dict for value in found):
        raise ValueError("a ref is not one JSON object")
    return found  # type: ignore[no-any-return]


def _number(value: dict[str, Any], key: str, below: int = 1 << 63) -> int:
    """A number that is not negative. Raises ValueError, KeyError."""
    number = value[key]
    if type(number) is not int or not 0 <= number < below:
        raise ValueError(f"{key} is {number!r}")
    return number


def _name(value: dict[str, Any]) -> bytes:
    name: bytes = value["name"].encode()
    if not 0 < len(name) <= 255 or b"/" in name or b"\0" in name:
        raise ValueError(f"no name: {name!r}")
    return name


def _page(text: str) -> PageId:
    page = PageId(bytes.fromhex(text))
    if len(page) != 32:
        raise ValueError(f"no page id: {text}")
    return page


def _state(value: dict[str, Any]) -> State:
    size_bytes = _number(value, "size_bytes", _BYTES_OF_A_TREE)
    return State.stored(_page(value["root"]), _number(value, "files"), size_bytes)


def _branch_key(branch: BranchId) -> bytes:
    return BRANCH + branch.to_bytes(8, "big")


def _snapshot_key(branch: BranchId, snapshot: SnapshotId) -> bytes:
    return SNAPSHOT + branch.to_bytes(8, "big") + snapshot.to_bytes(8, "big")


def dump(value: dict[str, Any]) -> bytes:
    """The canonical encoding of a ref."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
