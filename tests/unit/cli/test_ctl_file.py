"""One line to `ctl`, its reply from the same descriptor; a plain file plays the control file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from heliosfs.cli import backend
from heliosfs.cli.backend import CtlFile
from heliosfs.cli.exits import CliError
from heliosfs.cli.locate import Place


class Ctl:
    """Answers each write as told, by making the file hold the answer."""

    def __init__(self, path: Path) -> None:
        self.lines: list[bytes] = []
        self.answer = b'{"ok": true}\n'
        self.refusal = 0
        self._path = path

    def write(self, _descriptor: int, data: bytes) -> int:
        self.lines.append(data)
        self._path.write_bytes(self.answer)
        if self.refusal:
            raise OSError(self.refusal, os.strerror(self.refusal))
        return len(data)


@pytest.fixture
def ctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ctl:
    (tmp_path / ".helios").mkdir()
    path = tmp_path / ".helios" / "ctl"
    path.touch()
    fake = Ctl(path)
    monkeypatch.setattr(backend.os, "write", fake.write)
    return fake


def test_words_become_one_quoted_line(ctl: Ctl, tmp_path: Path) -> None:
    reply = CtlFile(Place(os.fsencode(tmp_path), b"")).run(["restore", "v 1", "a'b", "\udcff"])
    assert reply == {"ok": True}
    assert ctl.lines == [b"restore 'v 1' 'a'\"'\"'b' '\xff'\n"]


def test_a_refusal_is_the_json_line_not_the_errno(ctl: Ctl, tmp_path: Path) -> None:
    ctl.refusal = errno.EEXIST
    ctl.answer = b'{"ok": false, "errno": "EEXIST", "error": "there is a v1"}\n'
    assert CtlFile(Place(os.fsencode(tmp_path), b"")).run(["checkpoint", "v1"])["error"] == "there is a v1"


def test_a_refusal_without_a_reply_is_the_errno(ctl: Ctl, tmp_path: Path) -> None:
    ctl.refusal, ctl.answer = errno.ESTALE, b""
    with pytest.raises(CliError) as caught:
        CtlFile(Place(os.fsencode(tmp_path), b"")).run(["checkpoint"])
    assert caught.value.errno_name == "ESTALE"


def test_a_long_reply_is_read_whole(ctl: Ctl, tmp_path: Path) -> None:
    ctl.answer = b'{"ok": true, "entries": [%s]}\n' % b",".join(b'"%d"' % n for n in range(400_000))
    reply = CtlFile(Place(os.fsencode(tmp_path), b"")).run(["log"])
    entries = reply["entries"]
    assert isinstance(entries, list)
    assert len(entries) == 400_000


def test_no_control_file(tmp_path: Path) -> None:
    with pytest.raises(CliError) as caught:
        CtlFile(Place(os.fsencode(tmp_path), b"")).run(["ls"])
    assert caught.value.errno_name == "ENOENT"
