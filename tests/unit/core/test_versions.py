"""Checkpoint, fork, restore, discard: what they refuse, what they cost, what kernels must forget."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable
from typing import NoReturn

import pytest

from heliosfs.core import cut as cuts
from heliosfs.core import oplog, versions
from heliosfs.core.diff import Change, differences, kernel_changes
from heliosfs.core.errors import FsError, StaleHandle
from heliosfs.core.ids import Ino, Lsn, ViewNo
from heliosfs.core.oplog import AssignView
from heliosfs.core.refs import automatic_name
from tests.support.corelab import CoreLab

DIR = stat.S_IFDIR | 0o755
REG = stat.S_IFREG | 0o644


@pytest.fixture
def lab() -> CoreLab:
    lab = CoreLab()
    lab.make(lab.main, b"d", DIR)
    lab.make(lab.main, b"d/f", REG)
    lab.write(lab.main, lab.ino(lab.main, b"d/f"), 0, b"one")
    return lab


def refused(number: int, call: Callable[..., object], *args: object) -> None:
    with pytest.raises(FsError) as caught:
        call(*args)
    assert caught.value.errno == number
    assert str(caught.value)


def changes(lab: CoreLab, found: list[object]) -> dict[Ino, Change]:
    return {c.ino: c for c in kernel_changes(lab.main, found, lab.pages)}  # type: ignore[arg-type]


def test_automatic_names_are_utc_and_never_collide() -> None:
    first = automatic_name(1_700_000_000_123_456_789, ())
    assert first == b"20231114T221320.123456Z"
    second = automatic_name(1_700_000_000_123_456_789, (first,))
    assert second == first + b"-2"
    assert automatic_name(1_700_000_000_123_456_789, (first, second)) == first + b"-3"
    assert automatic_name(0, (), b"import-") == b"import-19700101T000000.000000Z"


def test_two_checkpoints_of_an_unchanged_tree_share_one_state(lab: CoreLab) -> None:
    lab.checkpoint(lab.main, b"a")
    lab.checkpoint(lab.main, b"b")
    snapshots = lab.engine.branches[lab.main].snapshots
    assert snapshots[b"a"].state is snapshots[b"b"].state
    refused(errno.EEXIST, lab.checkpoint, lab.main, b"a")


def test_latest_follows_what_was_asked_for(lab: CoreLab) -> None:
    branch = lab.engine.branches[lab.main]
    assert branch.latest is None
    refused(errno.ENOENT, lab.restore, lab.main, b"latest")
    lab.checkpoint(lab.main, b"a")
    lab.checkpoint(lab.main, b"b")
    lab.restore(lab.main, b"a")
    assert branch.latest is branch.snapshots[b"a"]
    lab.do(versions.plan_forget_snapshot, lab.main, b"a", 0, 0, lab.now())
    assert branch.latest is branch.snapshots[b"b"]
    lab.do(versions.plan_forget_snapshot, lab.main, b"b", 0, 0, lab.now())
    assert branch.latest is None
    child = lab.engine.branches[lab.fork(lab.main, b"x")]
    assert child.latest is child.snapshots[b"base"]
    assert child.newest_asked() is child.snapshots[b"base"]


def test_restore_says_exactly_what_differs(lab: CoreLab) -> None:
    view = lab.main
    ino_d, ino_f = lab.ino(view, b"d"), lab.ino(view, b"d/f")
    lab.make(view, b"d/gone", DIR)
    ino_gone = lab.ino(view, b"d/gone")
    lab.checkpoint(view, b"s")
    lab.write(view, ino_f, 0, b"two")
    lab.rmdir(view, b"d/gone")
    lab.make(view, b"d/new", REG)
    ino_new = lab.ino(view, b"d/new")
    lab.make(view, b"other", REG)
    found = changes(lab, lab.restore(view, b"s"))
    assert found[ino_d].names == tuple(sorted(found[ino_d].names, key=found[ino_d].names.index))
    assert set(found[ino_d].names) == {b"gone", b"new"}
    assert found[ino_f].data
    assert found[ino_new].gone
    assert found[Ino(1)].names == (b"other",)
    assert ino_gone in found
    assert lab.engine.branches[view].generations == {ino_gone: lab.log[-1][2].lsn}
    assert lab.read(view, ino_f) == b"one"
    lab.check()


@pytest.mark.parametrize("stored", [False, True])
def test_differences_do_not_depend_on_what_is_stored(lab: CoreLab, stored: bool) -> None:
    view = lab.main
    for number in range(300):
        lab.make(view, b"d/%d" % number, REG)
    lab.checkpoint(view, b"s")
    if stored:
        lab.cut()
    ino = lab.ino(view, b"d/7")
    lab.write(view, ino, 0, b"changed")
    if stored:
        lab.cut()
    branch = lab.engine.branches[view]
    found = list(differences(branch.head, branch.snapshots[b"s"].state, lab.pages))
    assert [number for number, _, _ in found] == [ino]
    back = list(differences(branch.snapshots[b"s"].state, branch.head, lab.pages))
    assert [number for number, _, _ in back] == [ino]


def test_restored_orphans_leave_the_side_table(lab: CoreLab) -> None:
    view = lab.main
    lab.checkpoint(view, b"s")
    ino = lab.ino(view, b"d/f")
    lab.unlink(view, b"d/f")
    assert ino in lab.engine.branches[view].orphans
    lab.restore(view, b"s")
    assert ino not in lab.engine.branches[view].orphans
    assert lab.read(view, ino) == b"one"
    lab.check()


def test_inode_numbers_are_never_rolled_back(lab: CoreLab) -> None:
    view = lab.main
    lab.checkpoint(view, b"s")
    first = lab.make(view, b"x", REG).ino
    lab.restore(view, b"s")
    second = lab.make(view, b"x", REG).ino
    assert second > first
    child = lab.fork(view, b"c")
    assert lab.make(child, b"y", REG).ino not in range(second, second + 1)
    assert lab.ino(child, b"y") != lab.make(view, b"y", REG).ino


def test_discard_takes_views_and_refuses_parents(lab: CoreLab) -> None:
    view = lab.main
    child = lab.fork(view, b"c")
    grandchild = lab.fork(child, b"g")
    refused(errno.EBUSY, lab.do, versions.plan_discard, view, 0, 0, 1)
    refused(errno.EBUSY, lab.do, versions.plan_discard, child, 0, 0, 1)
    refused(errno.EEXIST, lab.fork, view, b"c")
    lab.checkpoint(grandchild, b"s")
    snapshot = lab.engine.branches[grandchild].snapshots[b"s"]
    lab.carry_out(AssignView(grandchild, snapshot.id, lab.engine.next_view))
    dead = lab.do(versions.plan_discard, grandchild, 0, 0, lab.now())
    assert dead == [grandchild, snapshot.view]
    for gone in dead:
        with pytest.raises(StaleHandle):
            lab.engine.tree(gone)
    refused(errno.ESTALE, lab.checkpoint, grandchild, b"x")
    lab.check()


def test_a_snapshot_is_renamed_in_place(lab: CoreLab) -> None:
    view = lab.main
    for name in (b"a", b"b", b"c"):
        lab.checkpoint(view, name)
    lab.do(versions.plan_rename_snapshot, view, b"a", b"z", 0, 0, lab.now())
    assert list(lab.engine.branches[view].snapshots) == [b"z", b"b", b"c"]
    refused(errno.EEXIST, lab.do, versions.plan_rename_snapshot, view, b"z", b"b", 0, 0, 1)
    refused(errno.ENOENT, lab.do, versions.plan_rename_snapshot, view, b"a", b"q", 0, 0, 1)
    with pytest.raises(StaleHandle):
        versions.snapshot_by_id(lab.engine.branches[view], oplog.Checkpoint(view, 1, 0, 0, 0, b"").now_ns)  # type: ignore[arg-type]


def test_a_failed_cut_is_done_again_and_forgets_nothing(lab: CoreLab) -> None:
    from heliosfs.core import cut as cuts
    from heliosfs.core.ids import Lsn

    view = lab.main
    lab.checkpoint(view, b"s")
    child = lab.fork(view, b"c")
    cut = cuts.begin(lab.engine, Lsn(lab.end))
    lab.do(versions.plan_discard, child, 0, 0, lab.now())
    cuts.undo(lab.engine, cut)
    events = [event.verb for event in lab.engine.events]
    assert events == ["checkpoint", "branch", "discard"]
    roots = lab.cut()
    assert roots
    assert lab.engine.branches[view].snapshots[b"s"].state.root is not None
    lab.check()


def test_an_unknown_view_is_stale(lab: CoreLab) -> None:
    with pytest.raises(StaleHandle):
        versions.live_branch(lab.engine, ViewNo(77))


class TestOnePath:
    def test_a_file_comes_back_with_missing_parents(self, lab: CoreLab) -> None:
        view = lab.main
        lab.checkpoint(view, b"s")
        lab.unlink(view, b"d/f")
        lab.rmdir(view, b"d")
        lab.restore_path(view, b"s", b"d/f")
        assert lab.read(view, lab.ino(view, b"d/f")) == b"one"
        lab.check()

    def test_a_moved_file_stays_where_it_is(self, lab: CoreLab) -> None:
        view = lab.main
        lab.checkpoint(view, b"s")
        moved = lab.ino(view, b"d/f")
        lab.rename(view, b"d/f", b"elsewhere")
        lab.write(view, moved, 0, b"two")
        lab.restore_path(view, b"s", b"d/f")
        assert lab.read(view, lab.ino(view, b"elsewhere")) == b"two"
        assert lab.read(view, lab.ino(view, b"d/f")) == b"one"
        assert lab.ino(view, b"d/f") != moved
        lab.check()

    def test_an_unchanged_file_with_another_name_is_linked_again(self, lab: CoreLab) -> None:
        view = lab.main
        lab.link(view, b"d/f", b"d/g")
        lab.checkpoint(view, b"s")
        lab.unlink(view, b"d/f")
        lab.restore_path(view, b"s", b"d/f")
        assert lab.ino(view, b"d/f") == lab.ino(view, b"d/g")
        lab.check()

    def test_a_directory_loses_what_it_had_not(self, lab: CoreLab) -> None:
        view = lab.main
        lab.checkpoint(view, b"s")
        lab.make(view, b"d/extra", DIR)
        lab.make(view, b"d/extra/deep", REG)
        lab.write(view, lab.ino(view, b"d/f"), 0, b"two")
        lab.make(view, b"untouched", REG)
        lab.restore_path(view, b"s", b"/d/")
        refused(errno.ENOENT, lab.ino, view, b"d/extra")
        assert lab.read(view, lab.ino(view, b"d/f")) == b"one"
        lab.ino(view, b"untouched")
        lab.check()

    def test_a_file_replaces_a_directory_and_the_other_way_round(self, lab: CoreLab) -> None:
        view = lab.main
        lab.checkpoint(view, b"s")
        lab.unlink(view, b"d/f")
        lab.make(view, b"d/f", DIR)
        lab.make(view, b"d/f/x", REG)
        lab.restore_path(view, b"s", b"d/f")
        assert lab.read(view, lab.ino(view, b"d/f")) == b"one"
        lab.unlink(view, b"d/f")
        lab.rmdir(view, b"d")
        lab.make(view, b"d", REG)
        lab.restore_path(view, b"s", b"d")
        assert lab.read(view, lab.ino(view, b"d/f")) == b"one"
        lab.unlink(view, b"d/f")
        lab.rmdir(view, b"d")
        lab.make(view, b"d", REG)
        lab.restore_path(view, b"s", b"d/f")
        assert lab.read(view, lab.ino(view, b"d/f")) == b"one"
        lab.check()

    def test_it_refuses_what_is_not_there(self, lab: CoreLab) -> None:
        view = lab.main
        lab.checkpoint(view, b"s")
        refused(errno.EINVAL, lab.restore_path, view, b"s", b"/")
        refused(errno.EINVAL, lab.restore_path, view, b"s", b"a/../b")
        refused(errno.ENOENT, lab.restore_path, view, b"nope", b"d")
        refused(errno.ENOENT, lab.restore_path, view, b"s", b"nope")
        refused(errno.ENOTDIR, lab.restore_path, view, b"s", b"d/f/x")


class _Unlooked(dict[ViewNo, object]):
    """Branches that are found one by one and never gone through."""

    def _refuse(self) -> NoReturn:
        raise AssertionError("all branches are looked at")

    __iter__ = keys = values = items = _refuse  # type: ignore[assignment]


def test_a_cut_looks_at_no_branch_that_was_not_touched() -> None:
    lab = CoreLab()
    views = [lab.fork(lab.main, b"b%d" % number) for number in range(40)]
    for view in views:
        lab.make(view, b"f", 0o100644)
    lab.cut()
    lab.make(views[7], b"g", 0o100644)
    lab.fork(views[9], b"below")
    branches = lab.engine.branches
    lab.engine.branches = _Unlooked(branches)  # type: ignore[assignment]
    cut = cuts.begin(lab.engine, Lsn(lab.end))
    assert len(cut.branches) == 3
    # Meanwhile.
    late = lab.fork(views[7], b"late")
    lab.make(late, b"h", 0o100644)
    lab.finish(cut)
    lab.engine.branches = dict(dict.items(lab.engine.branches))  # type: ignore[arg-type]
    lab.check()
    for branch in lab.engine.branches.values():
        assert branch.head.base is not None
        assert len(branch.head.overlay) == (1 + 1 if branch.view == late else 0)
