"""One pass over everything that a store reaches: refs, log, pages, trees, chunks, packs, leftovers.

Order: database and refs, the log's records and payloads, every reachable page, packs and index, the trees'
invariants, and last, where anything is damaged, whose paths and bytes it holds. Nothing is written.
Must not know: who asks, locks, how a finding is repaired.
"""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cas.database import disk_error
from cas.digest import ChunkId
from cas.salvage import Gap, salvage
from cas.scrub import Pace
from heliosfs.core.check import check_branches, check_tree
from heliosfs.core.errors import Damaged
from heliosfs.core.ids import PageId
from heliosfs.core.refs import Branch
from heliosfs.core.view import State, View
from heliosfs.storage import pagestore, refstore
from heliosfs.storage.checking.chunks import ChunkCheck, Step, check_chunks
from heliosfs.storage.checking.findings import Finding, Kind, Report, Touched, text
from heliosfs.storage.checking.pages import LenientPages
from heliosfs.storage.checking.touched import BadObject, Damage, touched_by
from heliosfs.storage.checking.view import StoreView, log_place, open_view
from heliosfs.storage.errors import StoreDamaged
from heliosfs.storage.layout import OURS, StoreLayout
from heliosfs.storage.log.frame import BLOCK_BYTES
from heliosfs.storage.reachable import Walk, chunks_of, walk_pages

_EVERY: Final = 256
"""Pages between two words of progress."""

_PACK: Final = re.compile(r"pack-[0-9]{8,}\Z")
_SEGMENT: Final = re.compile(r"seg-[0-9]{4,}\Z")


class Stopped(Exception):
    """Whoever asked for the check does not want it any more; raised by the pace."""


def at_full_speed(_read_bytes: int) -> None:
    """A Pace that never waits."""


def silent(_stage: str, _done: int, _of: int) -> None:
    """A Step that tells nobody."""


@dataclass(slots=True)
class Verified:
    """A check with what a repair goes on from.

    Attributes:
        report: For whoever asked.
        damage: The damaged objects, by id.
        chunks: What came of the packs; None where the check did not get so far.
    """

    report: Report
    damage: Damage | None = None
    chunks: ChunkCheck | None = None
    objects: dict[BadObject, Finding] = field(default_factory=dict)


def verify(
    path: Path, *, pace: Pace = at_full_speed, step: Step = silent, opened: Callable[[], None] = lambda: None
) -> Verified:
    """Check a store.

    Args:
        path: Its directory; the caller holds its lock, or its daemon is at work.
        pace: Called with the number of bytes just read and hashed: it may sleep, or raise Stopped.
        step: Told how far the check is.
        opened: Called when refs and log have been read: from now on the log may move on.

    Raises:
        StoreAbsent: No store there. StoreNewer: Of a later version. OSError: A directory can't be read.
        Stopped: From `pace`.
    """
    began = time.perf_counter()
    report = Report()
    done = Verified(report)
    try:
        StoreLayout.check(path)
    except StoreDamaged as error:
        report.found(Kind.FORMAT, "format", error.reason)
    try:
        with open_view(path) as view:
            opened()
            _Check(view, done, pace, step).run()
            report.complete = view.refs_damage is None and view.log_damage is None
    except Damaged as damage:
        report.found(Kind.DATABASE, "db", str(damage))
        done.chunks = check_chunks(path / "packs", None, set(), report, pace, step)
    except FileNotFoundError as error:
        report.found(Kind.FORMAT, os.path.relpath(error.filename or path, path), "missing")
    report.notes += leftovers(path)
    report.seconds = time.perf_counter() - began
    return done


class _Check:
    def __init__(self, view: StoreView, done: Verified, pace: Pace, step: Step) -> None:
        self._view = view
        self._done = done
        self._report = done.report
        self._pace = pace
        self._step = step
        self._lenient = LenientPages(view.pages)
        self._damage = done.damage = Damage(self._lenient)
        self._objects = done.objects

    def run(self) -> None:
        report, view = self._report, self._view
        self._check_database()
        if view.refs_damage is not None:
            report.found(Kind.REFS, "refs", str(view.refs_damage))
        if view.log_damage is not None:
            report.found(Kind.LOG, log_place(view.log_damage), str(view.log_damage))
        report.counts["log_records"] = view.recovery.records
        if view.recovery.torn_bytes:
            report.notes.append(f"log: a torn tail of {view.recovery.torn_bytes} bytes, as a power cut leaves it")
        self._check_payloads()
        wanted = self._check_pages()
        self._done.chunks = check_chunks(
            view.path / "packs", view.database.db, wanted, report, self._pace, self._step
        )
        given_up = self._given_up()
        for finding in report.findings:
            if finding.kind is Kind.CHUNK:
                id_ = bytes.fromhex(finding.object_id)
                self._objects[id_] = finding
                if id_ in given_up:
                    finding.reason = f"given up by a cut that could not read {given_up[id_]}"
        self._damage.chunks = set(self._done.chunks.bad)
        self._check_trees()

    def _given_up(self) -> dict[bytes, str]:
        """Chunks that stand for bytes which were lost before: id -> what they were."""
        try:
            return {
                id_: f"{found.get('source')}: {found.get('reason')}"
                for id_, found in refstore.lost(self._view.database.db).items()
            }
        except (OSError, ValueError, AttributeError):
            # A damaged block, told already.
            return {}

    # --- database and log ----------------------------------------------------------------------------

    def _check_database(self) -> None:
        """Read every record once: RocksDB checks its blocks as it reads them."""
        for found in salvage(self._view.database.db):
            if isinstance(found, Gap):
                after, before = found.after[:1] or b"-", found.before[:1] or b"-"
                where = f"db keys {found.after.hex()} to {found.before.hex()}"
                owner = {b"c": "index", b"p": "pages", b"r": "refs", b"o": "operation log"}
                parts = " to ".join(owner.get(key, "its end") for key in dict.fromkeys((after, before)))
                self._report.found(Kind.DATABASE, where, f"{parts}: {disk_error(Exception(found.reason)).strerror}")
            else:
                self._report.count("database_records")

    def _check_payloads(self) -> None:
        view, report = self._view, self._report
        for number, place in enumerate(view.payloads):
            if number % _EVERY == 0:
                self._step("log", number, len(view.payloads))
            if place.life not in view.segments:
                continue
            bad: list[tuple[int, int]] = []
            for start in range(0, place.length, BLOCK_BYTES):
                size = min(BLOCK_BYTES, place.length - start)
                block = start // BLOCK_BYTES * 4
                try:
                    data = view.read_payload(place, start, size)
                except OSError:
                    data = b""
                if len(data) != size or view.payload_sums(place, data) != place.sums[block : block + 4]:
                    bad.append((start, start + size))
            self._pace(place.length)
            report.count("log_bytes", place.length)
            if bad and view.leads(place.life):
                finding = report.found(
                    Kind.LOG_DATA,
                    f"log life {place.life} offset {place.offset + bad[0][0]}",
                    f"the checksum of {len(bad)} of {(place.length + BLOCK_BYTES - 1) // BLOCK_BYTES} blocks "
                    f"of the record at {place.lsn} is wrong",
                )
                self._objects[place.life, place.offset] = finding
                self._damage.log[place.life, place.offset] = bad

    # --- pages and trees -----------------------------------------------------------------------------

    def versions(self) -> Iterator[tuple[Branch, str | None, View | State]]:
        """Every branch and snapshot: (branch, snapshot's name or None, its tree)."""
        for branch in self._view.engine.branches.values():
            yield branch, None, branch.head
            for snapshot in branch.snapshots.values():
                yield branch, text(snapshot.name), snapshot.state

    def _check_pages(self) -> set[ChunkId]:
        """Every stored page below any root; returns the chunks that they refer to."""
        view, report = self._view, self._report
        walk = Walk(view.orphans.values())
        for _, _, tree in self.versions():
            if isinstance(tree.base, bytes):
                walk.add((PageId(tree.base),))
        wanted: set[ChunkId] = set()
        sizes = [0]

        def load(page_id: PageId) -> bytes:
            encoded = view.page_store.load(page_id)
            sizes[0] += len(encoded)
            self._pace(len(encoded))
            return encoded

        for number, found in enumerate(walk_pages(walk, load)):
            if number % _EVERY == 0:
                self._step("pages", number, number + len(walk))
            if found.node is None:
                assert found.damage is not None
                self._lenient.damaged[found.page_id] = found.damage
                self._objects[found.page_id] = report.found(Kind.PAGE, found.page_id.hex(), found.damage.reason)
                continue
            wanted.update(ref.id for ref in chunks_of(found.node))
        report.counts["pages"] = len(walk.seen)
        report.counts["page_bytes"] = sizes[0]
        stored = sum(not isinstance(found, Gap) for found in salvage(view.database.db, pagestore.PREFIX))
        report.counts["unreferenced_pages"] = max(stored - len(walk.seen - self._lenient.damaged.keys()), 0)
        return wanted

    def _check_trees(self) -> None:
        """Invariants of what is whole; whose paths are touched of what is not. Each state once."""
        report, damage = self._report, self._damage
        wrong: list[str] = []
        check_branches(self._view.engine, wrong)
        first: dict[object, list[tuple[BadObject, int]]] = {}
        versions = list(self.versions())
        report.counts["branches"] = len(self._view.engine.branches)
        report.counts["snapshots"] = len(versions) - len(self._view.engine.branches)
        for number, (branch, snapshot, tree) in enumerate(versions):
            self._step("trees", number, len(versions))
            path = text(branch.path)
            key: object = tree.base if not tree.overlay and isinstance(tree.base, bytes) else id(tree)
            known = first.get(key)
            if known is not None:
                for object_, at in known:
                    finding = self._objects[object_]
                    finding.touches.append(_again(finding, at, path, snapshot))
                continue
            report.count("trees")
            first[key] = touches = []
            if damage and damage.reaches_tree(tree):
                for object_, touched in touched_by(tree, damage, path, snapshot):
                    finding = self._objects[object_]
                    touches.append((object_, len(finding.touches)))
                    finding.touches.append(touched)
            else:
                self._pace(0)
                check_tree(tree, self._lenient, path if snapshot is None else f"{path}@{snapshot}", wrong)
        for line in wrong:
            report.found(Kind.TREE, line.partition(":")[0], line.partition(": ")[2])


def _again(finding: Finding, at: int, branch: str, snapshot: str | None) -> Touched:
    """What is touched in one version, said of another that has the same tree."""
    return dataclasses.replace(finding.touches[at], branch=branch, snapshot=snapshot)


def leftovers(path: Path) -> list[str]:
    """Files of a store that nothing uses: what a killed process left, or what is not ours."""
    notes = []
    for name in sorted(os.listdir(path)):
        if name not in OURS or name == "format.new":
            notes.append(f"{name}: not a part of a store, or left by a process that was killed")
    for directory, pattern in (("packs", _PACK), ("log", _SEGMENT)):
        if (path / directory).is_dir():
            notes += [
                f"{directory}/{name}: not a part of a store, or left by a process that was killed"
                for name in sorted(os.listdir(path / directory))
                if not pattern.match(name)
            ]
    return notes
