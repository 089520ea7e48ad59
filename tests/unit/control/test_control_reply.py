"""The JSON line: its keys, and names that are not UTF-8."""

from __future__ import annotations

import errno
import json
import os

import pytest

from heliosfs.control.reply import Reply, encode_line, encode_lines, git_quoted
from heliosfs.core.errors import FsError
from heliosfs.core.ids import Lsn
from heliosfs.filesystem.types import Outcome

KEYS = ["ok", "verb", "id", "name", "errno", "error", "durable", "time_ns"]


def test_a_success_has_the_agreed_keys_in_their_order() -> None:
    outcome = Outcome("x", "7", "v1", Lsn(7), True, 12345, [], {"changed": 2})
    reply = Reply.of("restore", outcome)
    assert reply.ok
    line = reply.line
    assert line.endswith(b"}\n") and line.count(b"\n") == 1
    keys = json.loads(line)
    assert list(keys) == [*KEYS, "changed"]
    assert keys == {
        "ok": True,
        "verb": "restore",
        "id": "7",
        "name": "v1",
        "errno": None,
        "error": None,
        "durable": True,
        "time_ns": 12345,
        "changed": 2,
    }
    assert reply.as_dict() == keys
    reply.raise_refusal()


def test_a_refusal_names_its_errno_and_reason() -> None:
    reply = Reply.refusal("checkpoint", errno.EEXIST, "there is one already", 9)
    assert not reply.ok
    assert list(reply.as_dict()) == KEYS
    assert reply.as_dict() == {
        "ok": False,
        "verb": "checkpoint",
        "id": None,
        "name": None,
        "errno": "EEXIST",
        "error": "there is one already",
        "durable": False,
        "time_ns": 9,
    }
    with pytest.raises(FsError) as caught:
        reply.raise_refusal()
    assert (caught.value.errno, caught.value.reason) == (errno.EEXIST, "there is one already")


def test_without_a_reason_there_is_strerror() -> None:
    assert Reply.refusal("x", errno.ENOSPC, "", 0).as_dict()["error"] == os.strerror(errno.ENOSPC)


def test_extra_keys_cannot_forge_the_result() -> None:
    outcome = Outcome("x", None, None, Lsn(0), False, 1, [], {"ok": False, "error": "disk", "durable": True})
    keys = Reply.of("status", outcome).as_dict()
    assert keys["ok"] is True and keys["error"] is None and keys["durable"] is True


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        (b"\xff", r'"\377"'),
        (b"a\xe9b", r'"a\351b"'),
        (b'"\\\xff', r'"\"\\\377"'),
        (b"\x07\x08\t\n\x0b\x0c\r\xff", r'"\a\b\t\n\v\f\r\377"'),
        (b"\x01\x7f\xff", r'"\001\177\377"'),
    ],
)
def test_quoting_is_gits(name: bytes, quoted: str) -> None:
    assert git_quoted(name) == quoted
    assert json.loads(encode_line({"path": name.decode("utf-8", "surrogateescape")})) == {"path": quoted}
    assert json.loads(encode_line({"path": name})) == {"path": quoted}


def test_utf8_stays_and_a_leading_quote_is_quoted() -> None:
    assert encode_line({"a": "é"}) == '{"a":"é"}\n'.encode()
    assert json.loads(encode_line({"a": '"x"', "b": 'x"y"'})) == {"a": r'"\"x\""', "b": 'x"y"'}
    assert json.loads(encode_line({"a": b"plain"})) == {"a": "plain"}


def test_quoting_reaches_into_lists_and_keys() -> None:
    bad = "\udcff"
    line = encode_line({"rows": [{"n": bad}, (bad, 1, None, True)], bad: 1})
    assert json.loads(line) == {"rows": [{"n": r'"\377"'}, [r'"\377"', 1, None, True]], r'"\377"': 1}


def test_lines_are_one_object_each() -> None:
    assert encode_lines([{"a": 1}, {"b": "x\ny"}]) == b'{"a":1}\n{"b":"x\\ny"}\n'
    assert encode_lines([]) == b""


def test_what_is_no_json_is_our_bug() -> None:
    with pytest.raises(TypeError):
        encode_line({"a": object()})
