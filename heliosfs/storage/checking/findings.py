"""What a check found: damaged objects with everything they touch, notes, and counts. Values; they know JSON."""

from __future__ import annotations

import enum
import os
from dataclasses import asdict, dataclass, field


class Kind(enum.StrEnum):
    """What is damaged."""

    FORMAT = "format"
    DATABASE = "database"
    REFS = "refs"
    LOG = "log"
    LOG_DATA = "log data"
    PAGE = "page"
    CHUNK = "chunk"
    PACK = "pack"
    INDEX = "index"
    TREE = "tree"


@dataclass(slots=True, frozen=True)
class Touched:
    """One file or directory of one version that a damaged object holds a part of.

    Attributes:
        branch: Its path ("main/exp"), bytes that are not UTF-8 as surrogates.
        snapshot: Its name, or None for the branch as it is now.
        path: Below the root, "" for the root itself; "?" in front where the way to it is lost, too.
        ranges: (start, end) bytes that can't be read, None where the whole object is out of reach.
        names: Of a directory: whether names in it are lost.
    """

    branch: str
    snapshot: str | None
    path: str
    ranges: tuple[tuple[int, int], ...] | None = None
    names: bool = False

    def line(self) -> str:
        """For people."""
        version = self.branch if self.snapshot is None else f"{self.branch}@{self.snapshot}"
        where = f"{version}:/{self.path}"
        if self.names:
            return f"{where} (names in it are lost)"
        if self.ranges is None:
            return where
        spans = ", ".join(f"{start}-{end - 1}" for start, end in self.ranges)
        return f"{where} bytes {spans}"


@dataclass(slots=True)
class Finding:
    """One damaged object.

    Attributes:
        object_id: Its id in hex, or its file and offset.
        reason: What did not hold.
        touches: What can't be read for it; empty where nothing visible needs it.
    """

    kind: Kind
    object_id: str
    reason: str
    touches: list[Touched] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """As a JSON object."""
        return {
            "kind": self.kind.value,
            "object": self.object_id,
            "reason": self.reason,
            "touches": [asdict(touched) for touched in self.touches],
        }

    @classmethod
    def from_dict(cls, found: dict[str, object]) -> Finding:
        """The inverse of `as_dict`."""
        touches = found["touches"]
        assert isinstance(touches, list)
        return cls(
            Kind(str(found["kind"])),
            str(found["object"]),
            str(found["reason"]),
            [Touched(**{**each, "ranges": _ranges(each["ranges"])}) for each in touches],
        )


@dataclass(slots=True)
class Report:
    """The result of a check.

    Attributes:
        complete: The check went through; False if it was stopped, or could not look at some of it.
        findings: Damaged objects.
        notes: Oddities that are no damage: leftovers, a torn tail.
        counts: What was looked at: branches, snapshots, trees, pages, page_bytes, chunks, chunk_bytes, packs,
            log_records, log_bytes, unreferenced_chunks, unreferenced_bytes, unreferenced_pages.
        seconds: Wall time.
    """

    complete: bool = False
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Nothing is damaged, and all was looked at."""
        return self.complete and not self.findings

    def count(self, name: str, more: int = 1) -> None:
        """Add to a count."""
        self.counts[name] = self.counts.get(name, 0) + more

    def found(self, kind: Kind, object_: str, reason: str) -> Finding:
        """Add a finding."""
        finding = Finding(kind, object_, reason)
        self.findings.append(finding)
        return finding

    def as_dict(self) -> dict[str, object]:
        """As a JSON object."""
        return {
            "clean": self.clean,
            "complete": self.complete,
            "findings": [finding.as_dict() for finding in self.findings],
            "notes": list(self.notes),
            "counts": dict(sorted(self.counts.items())),
            "seconds": round(self.seconds, 3),
        }

    @classmethod
    def from_dict(cls, found: dict[str, object]) -> Report:
        """The inverse of `as_dict`."""
        report = cls(complete=bool(found["complete"]))
        findings, notes, counts = found["findings"], found["notes"], found["counts"]
        assert isinstance(findings, list) and isinstance(notes, list) and isinstance(counts, dict)
        report.findings = [Finding.from_dict(each) for each in findings]
        report.notes = [str(note) for note in notes]
        report.counts = {str(name): int(number) for name, number in counts.items()}
        report.seconds = float(str(found["seconds"]))
        return report


def text(name: bytes) -> str:
    """A name or path as JSON can carry it."""
    return os.fsdecode(name)


def _ranges(found: object) -> tuple[tuple[int, int], ...] | None:
    if not isinstance(found, (list, tuple)):
        return None
    return tuple((int(start), int(end)) for start, end in found)
