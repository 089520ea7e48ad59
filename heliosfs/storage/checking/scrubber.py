"""Checks of a live store, on the daemon's side: one at a time, in a process beside it, and what came of the last.

A scrub goes on over a restart: what was asked for and the last result lie in `scrub.json` in the store, which is
replaced whole. A daemon that finds one unfinished begins it again.
Must not know: how a check is made, the command line.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from cas.digest import ChunkId
from cas.index import ChunkIndex
from heliosfs.core.errors import Damaged
from heliosfs.storage.checking.findings import Finding, Kind, Report
from heliosfs.storage.collecting.reads import ReadsUnderWay
from heliosfs.storage.log import Log

log_ = logging.getLogger(__name__)

STATE_NAME: Final = "scrub.json"
SHOWN: Final = 10
"""Findings that `status` shows; the result has all."""

_IMPORT_ROOT: Final = str(Path(__file__).resolve().parents[3])
Tell = Callable[[str, int, int], None]


@dataclass(slots=True)
class Progress:
    """How far a check is.

    Attributes:
        stage: "log", "pages", "packs", "trees", or "" before the first word.
    """

    stage: str = ""
    done: int = 0
    of: int = 0
    bytes: int = 0
    began_ns: int = field(default_factory=time.time_ns)

    def as_dict(self) -> dict[str, object]:
        """For status."""
        return {
            "stage": self.stage,
            "done": self.done,
            "of": self.of,
            "bytes": self.bytes,
            "began_ns": self.began_ns,
        }


class Scrubber:
    """The checks of one open store.

    Attributes:
        running: How far the scrub is, or None while none runs.
    """

    def __init__(self, store: Path, log: Log, index: ChunkIndex, reads: ReadsUnderWay) -> None:
        self._reads = reads
        self._store = store
        self._log = log
        self._index = index
        self._wanted = trio.Event()
        self._scope: trio.CancelScope | None = None
        self.running: Progress | None = None
        self._rate = 0
        self._last: dict[str, object] | None = None
        self._load()

    # --- the scrub -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """The background task: scrubs when one is asked for, or was when the store was last open."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            self.running = progress = Progress()
            self._save(unfinished=True)
            with trio.CancelScope() as self._scope:
                await self._scrub(progress)
            stopped = self._scope.cancelled_caught
            self._scope = None
            self.running = None
            if stopped:
                log_.info("scrub stopped at %s %d of %d", progress.stage, progress.done, progress.of)
            self._save(unfinished=False)

    async def _scrub(self, progress: Progress) -> None:
        try:
            report = await self.check(self._rate, progress)
        except (OSError, Damaged) as error:
            self._last = {"time_ns": time.time_ns(), "error": str(error)}
            log_.error("scrub failed: %s", error)
            return
        self._last = {"time_ns": time.time_ns(), **report.as_dict()}
        level = logging.INFO if report.clean else logging.ERROR
        pages, chunks = report.counts.get("pages", 0), report.counts.get("chunks", 0)
        found = len(report.findings)
        log_.log(level, "scrub: %d damaged of %d pages, %d chunks; %.1f s", found, pages, chunks, report.seconds)
        for finding in report.findings:
            log_.error("scrub: %s %s: %s", finding.kind.value, finding.object_id, finding.reason)
            for touched in finding.touches[:SHOWN]:
                log_.error("scrub:   %s", touched.line())

    def start(self, rate: int) -> bool:
        """Have a scrub made, at most `rate` bytes a second (0: no limit). False if one runs already."""
        if self.running is not None or self._wanted.is_set():
            return False
        self._rate = rate
        self._wanted.set()
        return True

    def stop(self) -> bool:
        """End the running scrub; its result stays the one before. False if none runs."""
        if self._scope is None:
            return False
        self._scope.cancel()
        return True

    def status(self) -> dict[str, object]:
        """Progress and the last result, its findings without end left out."""
        last = self._last
        if last is not None:
            findings = last.get("findings")
            if isinstance(findings, list):
                last = {**last, "damaged": len(findings), "findings": findings[:SHOWN]}
        running = self.running.as_dict() if self.running is not None else None
        return {"running": running, "rate": self._rate or None, "last": last}

    def result(self) -> dict[str, object] | None:
        """The last result whole."""
        return self._last

    # --- one check -----------------------------------------------------------------------------------

    async def check(self, rate: int = 0, progress: Progress | None = None, tell: Tell | None = None) -> Report:
        """Check the store in a process of its own; the loop reads its words and does nothing else.

        What is damaged is stored anew when it is put again.

        Raises:
            OSError: The process can't be started, or ended without a result.
        """
        # No pack goes and no record is deleted while the process looks at the store as it was.
        with self._reads.read():
            return await self._check(rate, progress or Progress(), tell)

    async def _check(self, rate: int, progress: Progress, tell: Tell | None) -> Report:
        lives = self._log.pin_all()
        process = None
        try:
            process = await trio.lowlevel.open_process(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "heliosfs.storage.checking.process",
                    os.fspath(self._store),
                    str(rate),
                    str(os.getpid()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                cwd="/",
                process_group=0,
                env={**os.environ, "PYTHONPATH": _IMPORT_ROOT},
            )
            assert process.stdout is not None
            buffer = bytearray()
            async for part in process.stdout:
                buffer += part
                *lines, rest = buffer.split(b"\n")
                buffer = bytearray(rest)
                for line in lines:
                    said = json.loads(line)
                    if "opened" in said and lives:
                        self._unpin(lives)
                        lives = []
                    report = self._heard(said, progress, tell)
                    if report is not None:
                        return report
            raise OSError(5, "the check ended without a result")
        finally:
            self._unpin(lives)
            if process is not None:
                with trio.CancelScope(shield=True):
                    process.kill()
                    await process.wait()
                    if process.stdout is not None:
                        await process.stdout.aclose()

    def _heard(self, said: dict[str, object], progress: Progress, tell: Tell | None) -> Report | None:
        step, read, report, error = said.get("step"), said.get("bytes"), said.get("report"), said.get("error")
        if isinstance(step, list):
            progress.stage, progress.done, progress.of = str(step[0]), int(step[1]), int(step[2])
            if tell is not None:
                tell(progress.stage, progress.done, progress.of)
        elif isinstance(read, int):
            progress.bytes = read
        elif isinstance(error, str):
            raise OSError(5, error)
        elif isinstance(report, dict):
            found = Report.from_dict(report)
            self._suspect(found.findings)
            return found
        return None

    def _suspect(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            if finding.kind is Kind.CHUNK:
                self._index.suspect(ChunkId(bytes.fromhex(finding.object_id)))

    def _unpin(self, lives: Iterable[int]) -> None:
        for life in lives:
            self._log.unpin(life)

    # --- over restarts -------------------------------------------------------------------------------

    def _load(self) -> None:
        try:
            found = json.loads((self._store / STATE_NAME).read_bytes())
            self._last = found["last"]
            self._rate = int(found["rate"])
            unfinished = found["unfinished"] is True
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            log_.warning("%s: %s; the last result is forgotten", STATE_NAME, error)
            return
        if unfinished:
            self._wanted.set()

    def _save(self, *, unfinished: bool) -> None:
        try:
            save_state(self._store, {"last": self._last, "rate": self._rate, "unfinished": unfinished})
        except OSError as error:
            # The result is in the log and in memory; a full disk must not end the daemon for it.
            log_.warning("%s: %s", STATE_NAME, error)


def save_state(store: Path, state: dict[str, object]) -> None:
    """Replace what a store keeps of its scrubs. Raises OSError."""
    path = store / STATE_NAME
    new = path.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w") as file:
        json.dump(state, file)
    new.replace(path)
