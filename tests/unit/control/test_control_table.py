"""The table of commands: what each verb's words mean, and what they must not."""

from __future__ import annotations

import errno

import pytest

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
from heliosfs.control.table import (
    COMMAND_FILES,
    COMMAND_XATTRS,
    CTL,
    SPECS,
    VERBS,
    parse_line,
    parse_words,
    verb_of,
)
from heliosfs.core.errors import FsError
from heliosfs.core.retention import Retention

LINES: list[tuple[bytes, Command]] = [
    (b"checkpoint", Checkpoint()),
    (b"checkpoint v1", Checkpoint(b"v1")),
    (b"checkpoint -- -v1", Checkpoint(b"-v1")),
    (b"checkpoint 'my name'\n", Checkpoint(b"my name")),
    (b"branch exp", Fork(b"exp")),
    (b"branch exp --from v1", Fork(b"exp", b"v1")),
    (b"branch --from=v1 exp", Fork(b"exp", b"v1")),
    (b"branch exp from v1", Fork(b"exp", b"v1")),
    (b"branch exp from latest", Fork(b"exp", b"latest")),
    (b"branch from", Fork(b"from")),
    (b"branch rm exp", Discard(b"exp")),
    (b"restore v1", Restore(b"v1")),
    (b"restore latest", Restore(b"latest")),
    (b"restore base a/b", Restore(b"base", b"a/b")),
    (b"restore v1 \xff", Restore(b"v1", b"\xff")),
    (b"snapshot rm v1", ForgetSnapshot(b"v1")),
    (b"snapshot mv v1 v2", RenameSnapshot(b"v1", b"v2")),
    (b"ls", ListVersions()),
    (b"status", Status()),
    (b"stats", Stats()),
    (b"stats --refresh", Stats(True)),
    (b"fsck", Fsck()),
    (b"scrub start", ScrubStart()),
    (b"scrub start --rate 50M", ScrubStart(50 << 20)),
    (b"scrub start --rate=7", ScrubStart(7)),
    (b"scrub stop", ScrubStop()),
    (b"scrub status", ScrubStatus()),
    (b"retention", Retain()),
    (b"retention exp --dry-run", Retain(b"exp", dry_run=True)),
    (b"retention --keep-last 5 --daily=7 --match 'a*'", Retain(policy=Retention(5, 0, 7, 0, b"a*"))),
    (b"retention --clear", Retain(clear=True)),
    (b"gc", Collect()),
    (b"gc --dry-run", Collect(True)),
    (b"log", Log()),
    (b"log -n 5", Log(5)),
    (b"log -n 999999999", Log(LOG_LINES)),
]

WRONG: list[tuple[bytes, int]] = [
    (b"", errno.EINVAL),
    (b"\n", errno.EINVAL),
    (b"scrub", errno.EINVAL),
    (b"scrub start --rate fast", errno.EINVAL),
    (b"scrub start --rate 5Q", errno.EINVAL),
    (b"   ", errno.EINVAL),
    (b"frobnicate", errno.EINVAL),
    (b"Checkpoint", errno.EINVAL),
    (b"commit", errno.EINVAL),
    (b"abort", errno.EINVAL),
    (b"undo", errno.EINVAL),
    (b"diff a b", errno.EINVAL),
    (b"history x", errno.EINVAL),
    (b"metrics", errno.EINVAL),
    (b"gc now", errno.EINVAL),
    (b"retention --keep-last 0", errno.EINVAL),
    (b"retention --keep-last -1", errno.EINVAL),
    (b"retention --match x", errno.EINVAL),
    (b"retention --clear --apply", errno.EINVAL),
    (b"retention --daily 1 --clear", errno.EINVAL),
    (b"gc --dry-run=1", errno.EINVAL),
    (b"gc --dry-run --dry-run", errno.EINVAL),
    (b"\xff\xfe", errno.EINVAL),
    (b"checkpoint a b", errno.EINVAL),
    (b"checkpoint ''", errno.EINVAL),
    (b"checkpoint -v", errno.EINVAL),
    (b"checkpoint latest", errno.EINVAL),
    (b"checkpoint a/b", errno.EINVAL),
    (b"checkpoint " + b"n" * 256, errno.ENAMETOOLONG),
    (b"checkpoint a\ncheckpoint b", errno.EINVAL),
    (b"branch", errno.EINVAL),
    (b"branch a b", errno.EINVAL),
    (b"branch a of b", errno.EINVAL),
    (b"branch a from b c", errno.EINVAL),
    (b"branch a from b --from c", errno.EINVAL),
    (b"branch a --from", errno.EINVAL),
    (b"branch a --from ''", errno.EINVAL),
    (b"branch a from ../b", errno.EINVAL),
    (b"branch base", errno.EINVAL),
    (b"branch rm", errno.EINVAL),
    (b"branch rm a b", errno.EINVAL),
    (b"branch rm a/b", errno.EINVAL),
    (b"restore", errno.EINVAL),
    (b"restore ''", errno.EINVAL),
    (b"restore a b c", errno.EINVAL),
    (b"restore a/b", errno.EINVAL),
    (b"restore " + b"n" * 256, errno.ENAMETOOLONG),
    (b"snapshot", errno.EINVAL),
    (b"snapshot add a", errno.EINVAL),
    (b"snapshot rm", errno.EINVAL),
    (b"snapshot rm latest", errno.EINVAL),
    (b"snapshot mv a", errno.EINVAL),
    (b"snapshot mv a latest", errno.EINVAL),
    (b"snapshot mv latest a", errno.EINVAL),
    (b"ls -l", errno.EINVAL),
    (b"status now", errno.EINVAL),
    (b"log -n", errno.EINVAL),
    (b"log -n 0", errno.EINVAL),
    (b"log -n -1", errno.EINVAL),
    (b"log -n many", errno.EINVAL),
    (b"log -n 1111111111", errno.EINVAL),
    (b"log 5", errno.EINVAL),
]


@pytest.mark.parametrize(("line", "command"), LINES)
def test_a_line_is_this_command(line: bytes, command: Command) -> None:
    assert parse_line(line) == command


@pytest.mark.parametrize(("line", "code"), WRONG)
def test_a_wrong_line_is_refused_with_a_reason(line: bytes, code: int) -> None:
    with pytest.raises(FsError) as caught:
        parse_line(line)
    assert caught.value.errno == code
    assert caught.value.reason


def test_every_row_is_tried_above() -> None:
    tried = {type(command) for _, command in LINES}
    assert tried == {spec.makes for spec in SPECS} == set(VERBS)


def test_a_row_makes_the_class_it_names() -> None:
    for line, command in LINES:
        assert VERBS[type(command)] == verb_of(line.split())


def test_a_refusals_verb_is_the_tables_or_the_first_word() -> None:
    assert verb_of([b"branch", b"rm"]) == "branch rm"
    assert verb_of([b"branch", b"a", b"b"]) == "branch"
    assert verb_of([b"gone", b"x"]) == "gone"
    assert verb_of([b"\xff"]) == "\\xff"
    assert verb_of([]) == ""
    assert CTL.verb_of(b"restore\n") == "restore"
    assert CTL.verb_of(b"restore 'a\n") == ""


def test_an_unknown_verb_under_a_known_word_tells_the_usage() -> None:
    with pytest.raises(FsError) as caught:
        parse_words([b"snapshot"])
    assert "snapshot rm NAME" in caught.value.reason and "snapshot mv OLD NEW" in caught.value.reason


def test_the_files_and_attributes_are_those_of_the_surface() -> None:
    assert [form.name for form in COMMAND_FILES] == [b"checkpoint", b"restore", b"ctl"]
    assert set(COMMAND_XATTRS) == {b"checkpoint", b"branch", b"restore"}
