"""The core against a dumber model: any sequence of operations, versions and cuts gives the model's trees."""

from __future__ import annotations

import copy
import random
import stat

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from heliosfs.core import cut as cuts
from heliosfs.core import namespace
from heliosfs.core.errors import FsError
from heliosfs.core.ids import Ino, Lsn, ViewNo
from heliosfs.core.ranges import (
    COLLAPSE_RANGE,
    INSERT_RANGE,
    KEEP_SIZE,
    PUNCH_HOLE,
    UNSHARE_RANGE,
    ZERO_RANGE,
)
from tests.support.corelab import CoreLab, assert_canonical
from tests.support.coremodel import Thing, as_model, compare, rename_refused, shape, walk

NAMES = st.sampled_from([b"a", b"b", b"c", b"\xff\xfe", b"d" * 255])
DIRS = st.sampled_from([b"", b"d1", b"d2", b"d1/e", b"many"])
AT = st.integers(0, 300_000)
EDGES = st.one_of(st.integers(0, 300_000), st.integers(0, 70).map(lambda block: block * 4096))
MODES = st.sampled_from(
    [
        0,
        KEEP_SIZE,
        PUNCH_HOLE | KEEP_SIZE,
        ZERO_RANGE,
        ZERO_RANGE | KEEP_SIZE,
        COLLAPSE_RANGE,
        INSERT_RANGE,
        UNSHARE_RANGE,
    ]
)
SIZES = st.sampled_from([1, 10, 4096, 70_000, 200_000])


def blob(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


class CoreAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.lab = CoreLab()
        root = Thing(stat.S_IFDIR, 0o755)
        self.models: dict[ViewNo, Thing] = {self.lab.main: root}
        self.snapshots: dict[tuple[ViewNo, bytes], Thing] = {}
        self.cut: cuts.Cut | None = None
        self.number = 0
        for path in (b"d1", b"d2", b"d1/e", b"many"):
            self._both_mkdir(self.lab.main, path)
        for path in (b"f", b"d1/g"):
            self.lab.make(self.lab.main, path, stat.S_IFREG | 0o644)
            parent, _, name = path.rpartition(b"/")
            holder = walk(root, parent)
            assert holder is not None
            holder.names[name] = Thing(stat.S_IFREG, 0o644)

    def _both_mkdir(self, view: ViewNo, path: bytes) -> None:
        self.lab.make(view, path, stat.S_IFDIR | 0o755)
        parent, _, name = path.rpartition(b"/")
        holder = walk(self.models[view], parent)
        assert holder is not None
        holder.names[name] = Thing(stat.S_IFDIR, 0o755)

    def view(self, index: int) -> ViewNo:
        views = sorted(self.models)
        return views[index % len(views)]

    def place(self, view: ViewNo, where: bytes, name: bytes) -> tuple[Thing | None, bytes]:
        path = where + b"/" + name if where else name
        return walk(self.models[view], where), path

    @rule(i=st.integers(0, 5), where=DIRS, name=NAMES, is_dir=st.booleans())
    def make(self, i: int, where: bytes, name: bytes, is_dir: bool) -> None:
        view = self.view(i)
        holder, path = self.place(view, where, name)
        kind = stat.S_IFDIR if is_dir else stat.S_IFREG
        possible = holder is not None and holder.kind == stat.S_IFDIR and name not in holder.names
        try:
            self.lab.make(view, path, kind | 0o644)
        except FsError:
            assert not possible
            return
        assert possible and holder is not None
        holder.names[name] = Thing(kind, 0o644)

    def files(self, model: Thing) -> list[bytes]:
        """Paths of the regular files of a model, sorted: rules pick among what exists."""
        found: list[bytes] = []

        def visit(thing: Thing, path: bytes) -> None:
            for name, below in sorted(thing.names.items()):
                if below.kind == stat.S_IFDIR:
                    visit(below, path + name + b"/")
                else:
                    found.append(path + name)

        visit(model, b"")
        return found

    @rule(i=st.integers(0, 5), f=st.integers(0, 3), size=SIZES, at=AT, seed=st.integers(0, 99))
    def write(self, i: int, f: int, size: int, at: int, seed: int) -> None:
        view = self.view(i)
        files = self.files(self.models[view])
        if not files:
            return
        path = files[f % len(files)]
        thing = walk(self.models[view], path)
        assert thing is not None
        data = blob(seed, size)
        self.lab.write(view, self.lab.ino(view, path), at, data)
        if len(thing.data) < at:
            thing.data.extend(bytes(at - len(thing.data)))
        thing.data[at : at + size] = data

    @rule(i=st.integers(0, 5), f=st.integers(0, 3), size=st.integers(0, 300_000))
    def truncate(self, i: int, f: int, size: int) -> None:
        view = self.view(i)
        files = self.files(self.models[view])
        if not files:
            return
        path = files[f % len(files)]
        thing = walk(self.models[view], path)
        assert thing is not None
        self.lab.truncate(view, self.lab.ino(view, path), size)
        del thing.data[size:]
        thing.data.extend(bytes(size - len(thing.data)))

    @rule(
        views=st.tuples(st.integers(0, 5), st.integers(0, 5)),
        files=st.tuples(st.integers(0, 3), st.integers(0, 3)),
        old=st.integers(0, 20),
        ats=st.tuples(EDGES, EDGES),
        length=EDGES,
    )
    def copy_range(
        self, views: tuple[int, int], files: tuple[int, int], old: int, ats: tuple[int, int], length: int
    ) -> None:
        """Between files of one view, of two, and from a snapshot."""
        view = self.view(views[1])
        names = [name for v, name in self.snapshots if v == view]
        from_old = bool(names) and old % 3 == 0
        source_view = self.view(views[0])
        model = self.models[source_view]
        if from_old:
            name = names[old % len(names)]
            source_view, model = self.lab.snapshot_view(view, name), self.snapshots[view, name]
        sources, targets = self.files(model), self.files(self.models[view])
        if not sources or not targets:
            return
        source, target = sources[files[0] % len(sources)], targets[files[1] % len(targets)]
        origin, thing = walk(model, source), walk(self.models[view], target)
        assert origin is not None and thing is not None
        data = bytes(origin.data[ats[0] : ats[0] + length])
        overlapping = origin is thing and ats[0] < ats[1] + len(data) and ats[1] < ats[0] + len(data)
        ends = (source_view, self.lab.ino(source_view, source)), (view, self.lab.ino(view, target))
        try:
            copied = self.lab.copy(ends[0], ats[0], ends[1], ats[1], length)
        except FsError:
            assert overlapping
            return
        assert copied == len(data) and not overlapping
        if data:
            thing.data.extend(bytes(max(ats[1] - len(thing.data), 0)))
            thing.data[ats[1] : ats[1] + len(data)] = data

    @rule(i=st.integers(0, 5), f=st.integers(0, 3), mode=MODES, at=EDGES, length=EDGES)
    def fallocate(self, i: int, f: int, mode: int, at: int, length: int) -> None:
        view = self.view(i)
        files = self.files(self.models[view])
        if not files:
            return
        path = files[f % len(files)]
        thing = walk(self.models[view], path)
        assert thing is not None
        data, size = thing.data, len(thing.data)
        possible = length > 0
        if mode in (COLLAPSE_RANGE, INSERT_RANGE):
            aligned = at % 4096 == 0 and length % 4096 == 0
            possible = possible and aligned and (at if mode == INSERT_RANGE else at + length) < size
        try:
            self.lab.fallocate(view, self.lab.ino(view, path), mode, at, length)
        except FsError:
            assert not possible
            return
        assert possible
        if mode == COLLAPSE_RANGE:
            del data[at : at + length]
        elif mode == INSERT_RANGE:
            data[at:at] = bytes(length)
        else:
            if not mode & KEEP_SIZE:
                data.extend(bytes(max(at + length - size, 0)))
            if mode & (PUNCH_HOLE | ZERO_RANGE):
                stop = min(at + length, len(data))
                data[at:stop] = bytes(max(stop - at, 0))

    @rule(i=st.integers(0, 5), where=DIRS, name=NAMES, seed=st.integers(0, 99), cut=st.booleans())
    def link_unnamed(self, i: int, where: bytes, name: bytes, seed: int, cut: bool) -> None:
        """A file made without a name is written, perhaps stored, and given one."""
        view = self.view(i)
        holder, path = self.place(view, where, name)
        inode = self.lab.make_unnamed(view)
        self.lab.write(view, inode.ino, 0, blob(seed, 5000))
        if cut:
            self.begin_cut()
            self.finish_cut(False)
        self.lab.check()
        possible = holder is not None and holder.kind == stat.S_IFDIR and name not in holder.names
        try:
            self.lab.do(namespace.plan_link, view, inode.ino, *self.lab.split(view, path), self.lab.now())
        except FsError:
            assert not possible
            return
        assert possible and holder is not None
        holder.names[name] = Thing(stat.S_IFREG, 0o644, bytearray(blob(seed, 5000)))

    @rule(i=st.integers(0, 5), where=DIRS, name=NAMES, value=st.binary(max_size=20))
    def xattr(self, i: int, where: bytes, name: bytes, value: bytes) -> None:
        view = self.view(i)
        _, path = self.place(view, where, name)
        thing = walk(self.models[view], path)
        if thing is not None:
            self.lab.set_xattr(view, self.lab.ino(view, path), b"user.x", value)
            thing.xattrs[b"user.x"] = value

    @rule(i=st.integers(0, 5), where=DIRS, name=NAMES, w2=DIRS, n2=NAMES)
    def link(self, i: int, where: bytes, name: bytes, w2: bytes, n2: bytes) -> None:
        view = self.view(i)
        _, path = self.place(view, where, name)
        holder, new = self.place(view, w2, n2)
        thing = walk(self.models[view], path)
        possible = (
            thing is not None
            and thing.kind == stat.S_IFREG
            and holder is not None
            and holder.kind == stat.S_IFDIR
            and n2 not in holder.names
        )
        try:
            self.lab.link(view, path, new)
        except FsError:
            assert not possible
            return
        assert possible and holder is not None and thing is not None
        holder.names[n2] = thing

    @rule(i=st.integers(0, 5), where=DIRS, name=NAMES)
    def remove(self, i: int, where: bytes, name: bytes) -> None:
        view = self.view(i)
        holder, path = self.place(view, where, name)
        thing = walk(self.models[view], path)
        if thing is None or holder is None:
            return
        try:
            if thing.kind == stat.S_IFDIR:
                self.lab.rmdir(view, path)
            else:
                self.lab.unlink(view, path)
        except FsError:
            assert thing.names
            return
        assert not thing.names
        del holder.names[name]

    @rule(i=st.integers(0, 5), where=DIRS, name=NAMES, w2=DIRS, n2=NAMES, flags=st.sampled_from([0, 0, 1, 2]))
    def rename(self, i: int, where: bytes, name: bytes, w2: bytes, n2: bytes, flags: int) -> None:
        view = self.view(i)
        holder, path = self.place(view, where, name)
        into, new = self.place(view, w2, n2)
        before = copy.deepcopy(self.models[view])
        moved = holder.names.get(name) if holder is not None else None
        target = into.names.get(n2) if into is not None else None
        try:
            self.lab.rename(view, path, new, flags)
        except FsError:
            assert rename_refused(holder, moved, into, target, flags)
            self._same(view, before)
            return
        assert holder is not None and into is not None and moved is not None
        if flags == 2:
            assert target is not None
            holder.names[name], into.names[n2] = target, moved
        elif moved is not target:
            del holder.names[name]
            into.names[n2] = moved

    @rule(i=st.integers(0, 5), count=st.integers(1, 90), seed=st.integers(0, 3))
    def many(self, i: int, count: int, seed: int) -> None:
        view = self.view(i)
        holder = walk(self.models[view], b"many")
        if holder is None or holder.kind != stat.S_IFDIR:
            return
        for number in range(count):
            name = b"%d-%d" % (seed, number)
            if name in holder.names:
                self.lab.unlink(view, b"many/" + name)
                del holder.names[name]
            else:
                self.lab.make(view, b"many/" + name, stat.S_IFREG | 0o600)
                holder.names[name] = Thing(stat.S_IFREG, 0o600)

    @rule(i=st.integers(0, 5))
    def checkpoint(self, i: int) -> None:
        view = self.view(i)
        self.number += 1
        name = b"s%d" % self.number
        self.lab.checkpoint(view, name)
        self.snapshots[view, name] = copy.deepcopy(self.models[view])

    @rule(i=st.integers(0, 5), s=st.integers(0, 20), old=st.booleans())
    def fork(self, i: int, s: int, old: bool) -> None:
        if len(self.models) > 5:
            return
        view = self.view(i)
        self.number += 1
        mine = [name for v, name in self.snapshots if v == view]
        if old and mine:
            name = mine[s % len(mine)]
            new = self.lab.fork(view, b"f%d" % self.number, name)
            self.models[new] = copy.deepcopy(self.snapshots[view, name])
        else:
            new = self.lab.fork(view, b"f%d" % self.number)
            self.models[new] = copy.deepcopy(self.models[view])
        self.snapshots[new, b"base"] = copy.deepcopy(self.models[new])

    @rule(i=st.integers(0, 5), s=st.integers(0, 20))
    def restore(self, i: int, s: int) -> None:
        view = self.view(i)
        mine = [name for v, name in self.snapshots if v == view]
        if mine:
            name = mine[s % len(mine)]
            self.lab.restore(view, name)
            self.models[view] = copy.deepcopy(self.snapshots[view, name])

    @rule(i=st.integers(0, 5), s=st.integers(0, 20), where=DIRS, name=NAMES)
    def restore_path(self, i: int, s: int, where: bytes, name: bytes) -> None:
        view = self.view(i)
        mine = [n for v, n in self.snapshots if v == view]
        _, path = self.place(view, where, name)
        if not mine:
            return
        snapshot = mine[s % len(mine)]
        wanted = walk(self.snapshots[view, snapshot], path)
        try:
            self.lab.restore_path(view, snapshot, path)
        except FsError:
            assert wanted is None
            return
        assert wanted is not None
        got = self._model_of(view, path)
        assert shape(got) == shape(wanted)
        self.models[view] = self._model_of(view, b"")

    @rule()
    def begin_cut(self) -> None:
        if self.cut is None:
            self.cut = cuts.begin(self.lab.engine, Lsn(self.lab.end))

    @rule(fail=st.booleans())
    def finish_cut(self, fail: bool) -> None:
        if self.cut is None:
            return
        if fail:
            cuts.undo(self.lab.engine, self.cut)
        else:
            self.lab.finish(self.cut)
            self.lab.forget_decoded()
        self.cut = None

    @rule(
        i=st.integers(0, 5),
        f=st.integers(0, 3),
        sizes=st.tuples(SIZES, SIZES),
        ats=st.tuples(AT, AT),
        seed=st.integers(0, 99),
    )
    def write_while_a_cut_runs(
        self, i: int, f: int, sizes: tuple[int, int], ats: tuple[int, int], seed: int
    ) -> None:
        self.write(i, f, sizes[0], ats[0], seed)
        self.begin_cut()
        self.write(i, f, sizes[1], ats[1], seed + 1)
        self.finish_cut(False)

    @invariant()
    def trees_are_the_models(self) -> None:
        for view, model in self.models.items():
            self._same(view, model)

    def teardown(self) -> None:
        self.lab.check()
        if self.cut is not None:
            cuts.undo(self.lab.engine, self.cut)
        self.lab.cut()
        self.lab.forget_decoded()
        self.lab.check()
        for view, model in self.models.items():
            self._same(view, model)
            assert_canonical(self.lab, view)
        for (view, name), model in self.snapshots.items():
            branch = self.lab.engine.branches[view]
            compare(self.lab, branch.snapshots[name].state, model)
        again = self.lab.replayed()
        again.check()
        for view, model in self.models.items():
            compare(again, again.tree(view), model)

    def _same(self, view: ViewNo, model: Thing) -> None:
        compare(self.lab, self.lab.tree(view), model)

    def _model_of(self, view: ViewNo, path: bytes) -> Thing:
        seen: dict[Ino, Thing] = {}
        return as_model(self.lab, view, self.lab.ino(view, path), seen)


TestCoreAgainstModel = CoreAgainstModel.TestCase
TestCoreAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
