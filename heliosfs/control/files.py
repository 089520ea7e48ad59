"""The files in `.helios`: which there are, and what each holds for a ticket without a command of its own.

Must not know: tickets, node ids, who reads.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from heliosfs.control.commands import LOG_LINES
from heliosfs.control.door import Versions
from heliosfs.control.reply import encode_line, encode_lines
from heliosfs.control.table import COMMAND_FILES, FileForm
from heliosfs.core.ids import ViewNo


@dataclass(slots=True, frozen=True)
class ControlFile:
    """A file of `.helios`.

    Attributes:
        index: Its place in the listing; gives its st_ino.
        form: What gives commands through it; None for a report.
        report: What it holds, made at each lookup so that its size is true; None for a command's file.
    """

    index: int
    name: bytes
    mode: int
    form: FileForm | None = None
    report: Callable[[Versions, ViewNo], bytes] | None = None


def _status(fs: Versions, view: ViewNo) -> bytes:
    return encode_line(fs.status(view))


def _stats(fs: Versions, _view: ViewNo) -> bytes:
    return encode_line(fs.stats())


def _log(fs: Versions, view: ViewNo) -> bytes:
    return encode_lines(fs.oplog(view, LOG_LINES))


_REPORTS: Final = ((b"status", _status), (b"stats", _stats), (b"log", _log))

FILES: Final = (
    *(ControlFile(n, form.name, stat.S_IFREG | 0o600, form=form) for n, form in enumerate(COMMAND_FILES)),
    *(
        ControlFile(n, name, stat.S_IFREG | 0o400, report=report)
        for n, (name, report) in enumerate(_REPORTS, len(COMMAND_FILES))
    ),
)
BY_NAME: Final = {file.name: file for file in FILES}

LATEST_INDEX: Final = len(FILES)
"""What gives the symbolic link `snapshots/latest` its st_ino."""
ENTRY_INDEX: Final = LATEST_INDEX + 1
"""The same for a listed directory that was never looked up."""
