"""What people and programs say: command lines, attributes' values, lines of the socket."""

from __future__ import annotations

import errno
import json

from heliosfs.control import table
from heliosfs.control.words import LINE_MAX, one_line
from heliosfs.core.errors import FsError
from heliosfs.core.ids import ViewNo
from heliosfs.daemon.rpc import parse_request
from heliosfs.filesystem.types import Caller
from tests.support.mutation import fuzzed, memory_below

LINES = [
    *(b"checkpoint", b"checkpoint v1\n", b"branch exp from v1", b"branch exp --from=v1", b"branch rm 'a b'"),
    *(b'restore latest "sub dir/file"', b"snapshot mv a b", b"snapshot rm -- -x", b"log -n 10", b"ls", b"status"),
    *(b"gc --dry-run", b"\xff\xfe", b"x" * (LINE_MAX + 1), b"'" * 100),
]
REFUSALS = {errno.EINVAL, errno.ENAMETOOLONG, errno.E2BIG}


@fuzzed("commands", LINES, text="abc '\"\\-=./\n0\t;$`é")
def test_command_lines(data: bytes) -> None:
    """Every line is a command or EINVAL, ENAMETOOLONG, E2BIG; its verb has a name."""
    with memory_below(1_000_000 + 40 * len(data)):
        try:
            command = table.parse_line(data)
        except FsError as error:
            assert error.errno in REFUSALS and error.reason
        else:
            assert type(command) in table.VERBS
        assert isinstance(table.CTL.verb_of(data), str)


@fuzzed("values", [b"", b"v1", b"v1\n", b"..", b"latest", b"a/b", b"n" * 256, "ü".encode()], text="av1./\n-é")
def test_values_of_control_files_and_attributes(data: bytes) -> None:
    """As the lines."""
    forms = [file.written for file in table.COMMAND_FILES]
    for form in table.COMMAND_XATTRS.values():
        forms.append(form.on_branch)
        if form.on_path is not None:
            forms.append(lambda value, build=form.on_path: build(value, b"some/path"))
        if form.on_snapshot is not None:
            forms.append(lambda value, build=form.on_snapshot: build(value, ViewNo(7)))
    for build in forms:
        try:
            command = build(data)
        except FsError as error:
            assert error.errno in REFUSALS and error.reason
        else:
            assert type(command) in table.VERBS
    assert len(one_line(data)) >= len(data) - 1


REQUESTS = [
    json.dumps({"argv": ["checkpoint", "v1"], "branch": "main", "cwd_path": None}).encode(),
    json.dumps({"argv": ["restore", "v", "\udcff"], "branch": "main/exp", "cwd_path": "sub"}).encode(),
    b'{"argv": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"argv": ["a"], "branch": ' + b'{"x":' * 20_000 + b"1" + b"}" * 20_000 + b"}",
    b'{"argv": ["a"], "n": ' + b"9" * 5000 + b"}",
    b'{"argv": ["a"], "n": 1e999, "x": NaN}',
]


@fuzzed("requests", REQUESTS)
def test_lines_of_the_socket(data: bytes) -> None:
    """A request, or ValueError with words for the client."""
    with memory_below(2_000_000 + 60 * len(data)):
        try:
            request = parse_request(data, Caller(1, 1, 1))
        except ValueError as error:
            assert str(error)
            return
    assert request.argv and all(isinstance(word, str) for word in request.argv)
    assert isinstance(request.branch, str)
