"""The group: lazy verbs, usage errors, one line for each failure, JSON for those who ask."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from heliosfs.cli import ls, main
from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.main import VERBS, cli
from heliosfs.cli.main import main as run

LATER = ["commit", "abort", "undo", "diff", "history", "metrics", "nonsense"]
DOCS = Path(__file__).parents[3] / "docs"


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    """Every verb that can be run, with its words."""
    if not isinstance(command, click.Group):
        return [(path, command)]
    context = click.Context(command)
    found = []
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        found += leaves(inner, (*path, name))
    return found


def test_every_verb_has_help_and_json() -> None:
    assert [path[0] for path, _ in leaves(cli)] == sorted(
        [path[0] for path, _ in leaves(cli)], key=list(VERBS).index
    )
    for path, command in leaves(cli):
        assert command.help, path
        assert command.short_help, path
        assert any("--json" in param.opts for param in command.params), path


def test_every_verb_and_exit_code_is_documented() -> None:
    text = (DOCS / "cli.md").read_text()
    for verb in VERBS:
        assert f"heliosfs {verb}" in text, verb
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert documented == {int(code) for code in Exit}


@pytest.mark.parametrize("verb", LATER)
def test_verbs_of_later_are_unknown(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb]) == Exit.USAGE
    err = capsys.readouterr().err
    assert verb in err
    assert err.startswith("heliosfs: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["init"],
        ["mount"],
        ["mount", "a", "b", "c"],
        ["mount", "--from", "d", "a", "b"],
        ["mount", "-o", "strange", "a", "b"],
        ["branch"],
        ["branch", "rm"],
        ["branch", "a", "b"],
        ["branch", "rm", "a", "--from", "b"],
        ["log", "-n", "0"],
        ["log", "-n", "many"],
        ["completion", "tcsh"],
        ["snapshot", "cp", "a", "b"],
        ["checkpoint", "--unknown"],
        ["ls", "--branch", "main"],
        ["export", "s", "@v1", "d"],
    ],
)
def test_usage_errors_exit_2_in_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(words) == Exit.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_a_usage_error_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["mount", "--json"]) == Exit.USAGE
    reply = json.loads(capsys.readouterr().out)
    assert (reply["ok"], reply["verb"], reply["errno"], reply["exit"]) == (False, "mount", "EINVAL", 2)


def test_no_store_is_exit_10(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = str(tmp_path / "absent")
    (tmp_path / "m").mkdir()
    for words in (
        ["mount", absent, str(tmp_path / "m")],
        ["import", absent, str(tmp_path)],
        ["export", absent, "main", str(tmp_path / "d")],
        ["ls", "--store", absent],
    ):
        assert run([*words, "--json"]) == Exit.NO_STORE, words
        assert json.loads(capsys.readouterr().out)["exit"] == 10
    assert not (tmp_path / "absent").exists()


def test_outside_a_branch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["checkpoint"], ["-C", str(tmp_path), "ls"], ["status", "-C", str(tmp_path)]):
        assert run(["-C", str(tmp_path), *words]) == Exit.ERROR
        assert "is not in a HeliosFS branch" in capsys.readouterr().err


def test_the_unexpected_is_one_line_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def explode(*_: object) -> None:
        raise RuntimeError("seven\nlines")

    monkeypatch.setattr(ls, "reach", explode)
    assert run(["ls"]) == Exit.ERROR
    err = capsys.readouterr().err
    assert "unexpected RuntimeError" in err
    assert err.count("\n") == 1
    monkeypatch.setenv("HELIOSFS_DEBUG", "1")
    assert run(["ls"]) == Exit.ERROR
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CliError("locked", "wait", Exit.LOCKED), 11),
        (PermissionError(13, "Permission denied", "/x"), 1),
        (FileExistsError(17, "File exists", "/x"), 3),
        (click.Abort(), 130),
    ],
)
def test_failures_have_exit_codes(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def explode(*_: object) -> None:
        raise error

    monkeypatch.setattr(ls, "reach", explode)
    assert main.main(["ls"]) == code
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == Exit.OK
    assert "_HELIOSFS_COMPLETE" in capsys.readouterr().out


def in_a_child(code: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, timeout=60, check=True, text=True
    )
    return done.stdout


def test_words_are_completed() -> None:
    environment = "_HELIOSFS_COMPLETE='bash_complete', COMP_WORDS='heliosfs ch', COMP_CWORD='1'"
    out = in_a_child(f"import os; os.environ.update({environment}); from heliosfs.cli.main import main; main([])")
    assert out.split() == ["plain,checkpoint"]


@pytest.mark.parametrize(
    "words", [["checkpoint"], ["ls"], ["branch", "x"], ["restore", "v"], ["status"], ["log"], ["--help"], ["stats"]]
)
def test_verbs_that_talk_to_a_daemon_import_none_of_it(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom heliosfs.cli.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "heavy = {'trio', 'rocksdict', 'pyfuse3', 'rich', 'immutables', 'blake3'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy), sorted(m for m in sys.modules if m.startswith('heliosfs.storage')))"
    )
    prefix = [] if words == ["--help"] else ["-C", str(tmp_path)]
    assert in_a_child(code, *prefix, *words).splitlines()[-1] == "heavy: [] []"
