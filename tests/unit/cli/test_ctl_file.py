"""One line to `ctl`, its reply by the same call or descriptor; a plain file plays the control file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from heliosfs.cli import backend
from heliosfs.cli.backend import CtlFile
from heliosfs.cli.exits import CliError
from heliosfs.cli.locate import Place
from heliosfs.control import ioctl


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


def test_somebody_elses_result_is_no_reply(ctl: Ctl, tmp_path: Path) -> None:
    """Where there is no room for a reply, the file shows what it showed before."""
    ctl.refusal, ctl.answer = errno.ENFILE, b'{"ok": true, "errno": null}\n'
    with pytest.raises(CliError) as caught:
        CtlFile(Place(os.fsencode(tmp_path), b"")).run(["checkpoint"])
    assert caught.value.errno_name == "ENFILE"


class Call:
    """Answers an ioctl as told; the file behind the descriptor holds what it held."""

    def __init__(self, answer: bytes = b"", whole: int | None = None, refusal: int = 0) -> None:
        self.lines: list[bytes] = []
        self._answer = answer
        self._whole = len(answer) if whole is None else whole
        self._refusal = refusal

    def ioctl(self, _descriptor: int, number: int, structure: bytearray, _mutate: bool) -> int:
        assert number == ioctl.NUMBER
        self.lines.append(ioctl.command_in(bytes(structure)))
        if self._answer:
            answered = ioctl.answer(self._answer, self._whole)
            structure[: len(answered)] = answered
        if self._refusal:
            raise OSError(self._refusal, os.strerror(self._refusal))
        return 0


def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, made: Call) -> dict[str, object]:
    monkeypatch.setattr(backend.fcntl, "ioctl", made.ioctl)
    return CtlFile(Place(os.fsencode(tmp_path), b"")).run(["checkpoint", "v 1"])


def test_one_call(ctl: Ctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Call(b'{"ok": true}\n')
    assert call(monkeypatch, tmp_path, made) == {"ok": True}
    assert (made.lines, ctl.lines) == ([b"checkpoint 'v 1'\n"], [])


def test_a_refusal_by_the_call_comes_with_its_reply(
    ctl: Ctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Call(b'{"ok": false, "errno": "EEXIST", "error": "there is"}\n', refusal=errno.EEXIST)
    assert call(monkeypatch, tmp_path, made)["error"] == "there is"
    assert ctl.lines == []


def test_a_cut_reply_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".helios").mkdir()
    (tmp_path / ".helios/ctl").write_bytes(b'{"ok": true, "entries": [1]}\n')
    assert call(monkeypatch, tmp_path, Call(b'{"ok": true}\n', whole=29))["entries"] == [1]


def test_a_call_that_fails_without_a_reply_is_the_errno(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".helios").mkdir()
    (tmp_path / ".helios/ctl").write_bytes(b'{"ok": true, "errno": null}\n')
    with pytest.raises(CliError) as caught:
        call(monkeypatch, tmp_path, Call(refusal=errno.ENFILE))
    assert caught.value.errno_name == "ENFILE"


def test_no_control_file(tmp_path: Path) -> None:
    with pytest.raises(CliError) as caught:
        CtlFile(Place(os.fsencode(tmp_path), b"")).run(["ls"])
    assert caught.value.errno_name == "ENOENT"
