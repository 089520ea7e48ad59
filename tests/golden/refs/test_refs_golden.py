"""The refs of format version 0: one commit batch, written the same by today's code and read by it.

`refs.txt` has one line for each record, by key: the key in hexadecimal, a space, the value.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rocksdict import Options, Rdict, WriteBatch

from heliosfs.core import cut as cuts
from heliosfs.core.cut import BranchCut, Cut, SnapshotCut
from heliosfs.core.engine import Engine
from heliosfs.core.errors import Damaged
from heliosfs.core.events import Event
from heliosfs.core.ids import BranchId, Ino, Lsn, PageId, SnapshotId, ViewNo
from heliosfs.core.inode import Inode
from heliosfs.core.radix import Node
from heliosfs.core.refs import Branch, Snapshot
from heliosfs.core.retention import Retention
from heliosfs.core.view import State, View
from heliosfs.storage import refstore

FIXTURE = Path(__file__).parent / "refs.txt"
DOCUMENT = FIXTURE.parents[3] / "docs" / "format" / "refs.md"
MAIN_ROOT, FORK_ROOT, ORPHANS = (PageId(bytes([byte]) * 32) for byte in (0xA1, 0xB2, 0xC3))
FORK_NAME = "zweig-\u00e4".encode()


class NoPages:
    """The refs alone are loaded; nobody asks for a page."""

    def node(self, page_id: PageId) -> Node:
        raise AssertionError(page_id)


class Said:
    """What an operation-log line takes from a record."""

    now_ns, uid, pid = 1_700_000_000_000_000_003, 1000, 77


@contextmanager
def database(path: Path) -> Iterator[Rdict]:
    db = Rdict(str(path), Options(raw_mode=True))
    try:
        yield db
    finally:
        db.close()


def a_branch(id_: int, name: bytes, parent: Branch | None, state: State) -> Branch:
    return Branch(
        BranchId(id_), name, parent, ViewNo(id_), View(state, Lsn(1)), 1000, 100, 1_700_000_000_000_000_000 + id_
    )


def batch() -> WriteBatch:
    """`main` with a snapshot that nobody has looked at, and a fork of it with everything a branch can have."""
    stored = State.stored(MAIN_ROOT, 3, 4096)
    main = a_branch(1, b"main", None, stored)
    snapshot = Snapshot(SnapshotId(0x1050), main.id, b"before", Said.now_ns, 0, stored, Lsn(0x10A0))
    changed = State(None, stored.overlay, None, (), 5, 1 << 50)
    fork = a_branch(2, FORK_NAME, main, changed)
    base = Snapshot(SnapshotId(0x2000), fork.id, b"base", Said.now_ns + 1, 4, stored, Lsn(0x2040))
    orphan = Inode(Ino(2050), Lsn(1), 0o100644, 0, 0, 1)
    cut = Cut(
        position=Lsn(0x3000),
        branches=[
            BranchCut(main, stored, {}, {}, Ino(70), Ino(1024), snapshot.id, b"main", 1000, 100),
            BranchCut(
                fork,
                changed,
                {orphan.ino: orphan},
                {Ino(2049): 9000, Ino(66): 8192},
                Ino(2051),
                Ino(3072),
                SnapshotId(0),
                FORK_NAME,
                0,
                0,
            ),
        ],
        snapshots=[SnapshotCut(snapshot, b"before", 0), SnapshotCut(base, b"base", 3)],
        wanted=[changed],
        dropped_branches=[BranchId(9)],
        dropped_snapshots=[(BranchId(1), SnapshotId(0x0900))],
        events=[
            Event(0x1050, "checkpoint", main, Said(), {"name": b"before"}),
            Event(0x2000, "branch", fork, Said(), {"from": b"\xff", "files": 3}),
        ],
        next_ino=Ino(3072),
        next_view=4,
        next_branch=BranchId(3),
        last_ns=Said.now_ns + 1,
    )
    return refstore.commit_batch(cut, {id(changed): FORK_ROOT}, {fork.id: ORPHANS})


def test_a_branch_with_a_policy(tmp_path: Path) -> None:
    """`retention` is written only where there is a policy: `refs.txt`, which is older, has none and is read."""
    policy = Retention(5, 24, 7, 4, "auto-\u00e4*".encode())
    main = a_branch(1, b"main", None, State.stored(MAIN_ROOT, 3, 4096))
    main.retention = policy
    engine = Engine(NoPages())
    engine.found(1000, 100, 1)
    engine.branches = {main.view: main}
    engine.touched_branches = {main}
    cut = cuts.begin(engine, Lsn(0x3000))
    with database(tmp_path / "db") as db:
        db.write(refstore.commit_batch(cut, {}, {}))
        wanted = (FIXTURE.parent / "refs-retention.txt").read_text("ascii").splitlines()
        assert lines(db) == wanted
        loaded = Engine(NoPages())
        refstore.load(db, loaded)
        assert loaded.main is not None and loaded.main.retention == policy
        key = b"rb" + (1).to_bytes(8, "big")
        for wrong in (b'"keep_last":-1', b'"keep_last":"5"', b'"keep_last":2000000'):
            db[key] = wanted[1].split(" ", 1)[1].encode().replace(b'"keep_last":5', wrong)
            with pytest.raises(Damaged):
                refstore.load(db, Engine(NoPages()))


def lines(db: Rdict) -> list[str]:
    found: list[str] = []
    for key, value in db.items():
        assert isinstance(key, bytes)
        found.append(f"{key.hex()} {value.decode('ascii')}")
    return sorted(found)


def fill(db: Rdict) -> None:
    for line in FIXTURE.read_text("ascii").splitlines():
        key, _, value = line.partition(" ")
        db[bytes.fromhex(key)] = value.encode()


def test_written_as_ever_and_what_was_dropped_is_gone(tmp_path: Path) -> None:
    with database(tmp_path / "db") as db:
        db[b"rb" + (9).to_bytes(8, "big")] = b"dropped"
        db[b"rs" + (1).to_bytes(8, "big") + (0x0900).to_bytes(8, "big")] = b"dropped"
        db.write(batch())
        assert lines(db) == FIXTURE.read_text("ascii").splitlines()


def test_read_as_ever(tmp_path: Path) -> None:
    engine = Engine(NoPages())
    with database(tmp_path / "db") as db:
        fill(db)
        stored = refstore.load(db, engine)
        head = db[refstore.HEAD]
        events = refstore.events(db, 10)
    assert stored == refstore.Stored(head, Lsn(0x3000), {BranchId(2): ORPHANS})
    assert (engine.next_ino, engine.next_view, engine.next_branch) == (3072, 4, 3)
    assert engine.last_ns == Said.now_ns + 1
    main = engine.main
    assert main is not None
    fork = main.children[FORK_NAME]
    assert engine.branches == {ViewNo(1): main, ViewNo(2): fork}
    assert main.latest is main.snapshots[b"before"]
    assert fork.latest is None
    for branch, root, files, size in ((main, MAIN_ROOT, 3, 4096), (fork, FORK_ROOT, 5, 1 << 50)):
        head = branch.head
        assert (head.base, head.files, head.size_bytes) == (root, files, size)
    assert (main.uid, main.gid, main.next_ino, main.lease_end) == (1000, 100, 70, 1024)
    assert (fork.uid, fork.gid, fork.next_ino, fork.lease_end) == (0, 0, 2051, 3072)
    assert fork.created_ns == 1_700_000_000_000_000_002
    assert fork.generations == {66: 8192, 2049: 9000}
    base = fork.snapshots[b"base"]
    assert engine.snapshot_views == {ViewNo(3): base}
    assert (base.id, base.kind, base.position, base.time_ns) == (0x2000, 4, 0x2040, Said.now_ns + 1)
    assert base.state.root == MAIN_ROOT
    assert [event["verb"] for event in events] == ["checkpoint", "branch"]
    assert events[1]["from"] == "\udcff"


def test_store_without_a_cut_has_no_refs(tmp_path: Path) -> None:
    with database(tmp_path / "db") as db:
        assert refstore.load(db, Engine(NoPages())) is None


@pytest.mark.parametrize(
    "key", [b"r!head", b"rb" + (1).to_bytes(8, "big"), b"rs" + bytes(7) + b"\1" + bytes(6) + b"\x10\x50"]
)
@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b'{"id":'])
def test_anything_else_is_damage(tmp_path: Path, key: bytes, value: bytes) -> None:
    with database(tmp_path / "db") as db:
        fill(db)
        assert key in db
        db[key] = value
        with pytest.raises(Damaged):
            refstore.load(db, Engine(NoPages()))


def test_document_shows_the_fixture() -> None:
    shown = [line[4:] for line in DOCUMENT.read_text().splitlines() if line.startswith("    ")]
    assert len(shown) == 2
    assert set(shown) <= set(FIXTURE.read_text("ascii").splitlines())
