"""The one table of commands: each verb's words, and how a control file or an attribute says the same.

Nothing else in this package compares or lists verbs; a new verb is a class in `commands` and a row here.
Must not know: who gives a command, and what becomes of its reply.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from heliosfs.control.commands import (
    LOG_LINES,
    Checkpoint,
    Collect,
    Command,
    Discard,
    ForgetSnapshot,
    Fork,
    Fsck,
    ListVersions,
    Log,
    RenameSnapshot,
    Restore,
    Retain,
    ScrubStart,
    ScrubStatus,
    ScrubStop,
    Stats,
    Status,
)
from heliosfs.control.words import one_line, options_apart, size_of, split
from heliosfs.core.errors import FsError
from heliosfs.core.ids import ViewNo
from heliosfs.core.retention import COUNT_MAX, Retention


@dataclass(slots=True, frozen=True)
class FileForm:
    """A control file that gives a command.

    Attributes:
        name: Of the file, and of the branch's last result that it shows.
        written: The command of one write(2). FsError EINVAL, ENAMETOOLONG.
        touched: The command of a touch, None where that says nothing.
        verb_in: The verb that bytes begin with, where the file takes more than one.
    """

    name: bytes
    written: Callable[[bytes], Command]
    touched: Callable[[], Command] | None = None
    verb_in: Callable[[bytes], str] | None = None

    def verb_of(self, data: bytes) -> str:
        """What a refusal of these bytes calls their verb."""
        return self.name.decode() if self.verb_in is None else self.verb_in(data)


@dataclass(slots=True, frozen=True)
class XattrForm:
    """An extended attribute that gives a command; its name is `user.helios.` and the name of the result.

    Attributes:
        on_branch: The command of a value, set on anything in a branch.
        on_path: Where another than the branch's root means that path (value, path below the root).
        on_snapshot: Where it may be set on a snapshot's root (value, the snapshot's view).
    """

    name: bytes
    on_branch: Callable[[bytes], Command]
    on_path: Callable[[bytes, bytes], Command] | None = None
    on_snapshot: Callable[[bytes, ViewNo], Command] | None = None


@dataclass(slots=True, frozen=True)
class Spec:
    """One verb.

    Attributes:
        words: The verb itself, as it is typed.
        makes: The class of its commands.
        usage: What follows it, for people.
        arguments: (fewest, most).
        build: The command of its arguments and options.
        options: Those it understands; each takes a value.
        flags: Those that take none.
    """

    words: tuple[bytes, ...]
    makes: type[Command]
    usage: str
    arguments: tuple[int, int]
    build: Callable[[list[bytes], dict[bytes, bytes]], Command]
    options: tuple[bytes, ...] = ()
    flags: tuple[bytes, ...] = ()
    file: FileForm | None = None
    xattr: XattrForm | None = None

    @property
    def verb(self) -> str:
        """As replies name it: "branch rm"."""
        return b" ".join(self.words).decode()


def _checkpoint_value(value: bytes) -> Command:
    # setfattr without -v: what a touch is to the file.
    return Checkpoint(value) if value else Checkpoint()


def _fork(arguments: list[bytes], options: dict[bytes, bytes]) -> Command:
    snapshot = options.get(b"--from")
    if len(arguments) == 3 and arguments[1] == b"from" and snapshot is None:
        snapshot = arguments.pop()
        del arguments[1]
    if len(arguments) != 1:
        raise FsError(errno.EINVAL, f"usage: {_FORK_USAGE}")
    return Fork(arguments[0], snapshot)


def _fork_snapshot(name: bytes, view: ViewNo) -> Command:
    return Fork(name, snapshot_view=view)


def _retain(arguments: list[bytes], options: dict[bytes, bytes]) -> Command:
    counts = []
    for name in (b"--keep-last", b"--hourly", b"--daily", b"--weekly"):
        text = options.get(name, b"0")
        if not text.isdigit() or len(text) > 7:
            raise FsError(errno.EINVAL, f"{name.decode()} takes a number from 0 to {COUNT_MAX}")
        counts.append(int(text))
    policy = None
    if any(name in options for name in (b"--keep-last", b"--hourly", b"--daily", b"--weekly", b"--match")):
        keep_last, hourly, daily, weekly = counts
        policy = Retention(keep_last, hourly, daily, weekly, options.get(b"--match", b""))
    branch = arguments[0] if arguments else b""
    return Retain(branch, policy, b"--clear" in options, b"--apply" in options, b"--dry-run" in options)


def _log(_arguments: list[bytes], options: dict[bytes, bytes]) -> Command:
    text = options.get(b"-n")
    if text is None:
        return Log()
    if not text.isdigit() or len(text) > 9 or not int(text):
        raise FsError(errno.EINVAL, "-n takes a number from 1")
    return Log(min(int(text), LOG_LINES))


def _scrub_start(_arguments: list[bytes], options: dict[bytes, bytes]) -> Command:
    text = options.get(b"--rate")
    return ScrubStart() if text is None else ScrubStart(size_of(text))


_FORK_USAGE: Final = "branch NAME [--from SNAPSHOT] | branch NAME from SNAPSHOT"

_RETENTION_USAGE: Final = (
    "retention [BRANCH] [--keep-last N] [--hourly N] [--daily N] [--weekly N] [--match PATTERN] |"
    " [--clear] | [--apply], [--dry-run]"
)

SPECS: Final = (
    Spec(
        (b"checkpoint",),
        Checkpoint,
        "checkpoint [NAME]",
        (0, 1),
        lambda arguments, _: Checkpoint(*arguments),
        file=FileForm(b"checkpoint", lambda data: Checkpoint(one_line(data)), Checkpoint),
        xattr=XattrForm(b"checkpoint", _checkpoint_value),
    ),
    Spec(
        (b"branch",),
        Fork,
        _FORK_USAGE,
        (1, 3),
        _fork,
        options=(b"--from",),
        xattr=XattrForm(b"branch", Fork, on_snapshot=_fork_snapshot),
    ),
    Spec((b"branch", b"rm"), Discard, "branch rm NAME", (1, 1), lambda arguments, _: Discard(*arguments)),
    Spec(
        (b"restore",),
        Restore,
        "restore NAME [PATH]",
        (1, 2),
        lambda arguments, _: Restore(*arguments),
        file=FileForm(b"restore", lambda data: Restore(one_line(data))),
        xattr=XattrForm(b"restore", Restore, on_path=Restore),
    ),
    Spec(
        (b"snapshot", b"rm"),
        ForgetSnapshot,
        "snapshot rm NAME",
        (1, 1),
        lambda arguments, _: ForgetSnapshot(*arguments),
    ),
    Spec(
        (b"snapshot", b"mv"),
        RenameSnapshot,
        "snapshot mv OLD NEW",
        (2, 2),
        lambda arguments, _: RenameSnapshot(*arguments),
    ),
    Spec((b"ls",), ListVersions, "ls", (0, 0), lambda _, __: ListVersions()),
    Spec((b"status",), Status, "status", (0, 0), lambda _, __: Status()),
    Spec(
        (b"stats",),
        Stats,
        "stats [--refresh]",
        (0, 0),
        lambda _, options: Stats(b"--refresh" in options),
        flags=(b"--refresh",),
    ),
    Spec((b"fsck",), Fsck, "fsck", (0, 0), lambda _, __: Fsck()),
    Spec((b"scrub", b"start"), ScrubStart, "scrub start [--rate 50M]", (0, 0), _scrub_start, options=(b"--rate",)),
    Spec((b"scrub", b"stop"), ScrubStop, "scrub stop", (0, 0), lambda _, __: ScrubStop()),
    Spec((b"scrub", b"status"), ScrubStatus, "scrub status", (0, 0), lambda _, __: ScrubStatus()),
    Spec(
        (b"retention",),
        Retain,
        _RETENTION_USAGE,
        (0, 1),
        _retain,
        options=(b"--keep-last", b"--hourly", b"--daily", b"--weekly", b"--match"),
        flags=(b"--clear", b"--apply", b"--dry-run"),
    ),
    Spec(
        (b"gc",),
        Collect,
        "gc [--dry-run]",
        (0, 0),
        lambda _, options: Collect(b"--dry-run" in options),
        flags=(b"--dry-run",),
    ),
    Spec((b"log",), Log, "log [-n N]", (0, 0), _log, options=(b"-n",)),
)

VERBS: Final[dict[type[Command], str]] = {spec.makes: spec.verb for spec in SPECS}
"""What replies call each command."""

_BY_WORDS: Final = {spec.words: spec for spec in SPECS}
_GROUPS: Final = frozenset(spec.words[0] for spec in SPECS if len(spec.words) > 1)


def find_spec(words: Sequence[bytes]) -> Spec:
    """The row of a command line: the longest verb that it begins with.

    Raises:
        FsError: EINVAL: no words, or no such verb.
    """
    # `branch rm` without a name is no branch called rm: a forgotten argument must not make something.
    spec = _BY_WORDS.get(tuple(words[:2])) or _BY_WORDS.get(tuple(words[:1]))
    if spec is not None:
        return spec
    if not words:
        raise FsError(errno.EINVAL, "no command")
    if words[0] in _GROUPS:
        usages = " | ".join(spec.usage for spec in SPECS if spec.words[0] == words[0])
        raise FsError(errno.EINVAL, f"usage: {usages}")
    raise FsError(errno.EINVAL, f"no command is called {words[0].decode('utf-8', 'backslashreplace')}")


def parse_words(words: Sequence[bytes]) -> Command:
    """The command of a command line's words.

    Raises:
        FsError: EINVAL unknown verb, wrong arguments, malformed name; ENAMETOOLONG.
    """
    spec = find_spec(words)
    arguments, options = options_apart(words[len(spec.words) :], spec.options, spec.usage, spec.flags)
    fewest, most = spec.arguments
    if not fewest <= len(arguments) <= most:
        raise FsError(errno.EINVAL, f"usage: {spec.usage}")
    return spec.build(arguments, options)


def parse_line(data: bytes) -> Command:
    """The command of one line, as a shell would split it. FsError as `parse_words`."""
    return parse_words(split(one_line(data)))


def verb_of(words: Sequence[bytes]) -> str:
    """What a refusal of these words calls their verb: the table's name, else the first word; "" for none."""
    try:
        return find_spec(words).verb
    except FsError:
        return words[0].decode("utf-8", "backslashreplace") if words else ""


def _verb_in(data: bytes) -> str:
    try:
        return verb_of(split(one_line(data)))
    except FsError:
        return ""


CTL: Final = FileForm(b"ctl", parse_line, verb_in=_verb_in)
"""The file that takes every verb."""

COMMAND_FILES: Final = (*(spec.file for spec in SPECS if spec.file is not None), CTL)
COMMAND_XATTRS: Final = {form.name: form for form in (spec.xattr for spec in SPECS) if form is not None}
