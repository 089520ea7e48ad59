"""No shell, no eval, no object that is rebuilt from bytes: what other people's bytes could turn into code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(ROOT / "heliosfs").rglob("*.py"), *(ROOT / "cas").rglob("*.py")])
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput"),
    *("subprocess.getstatusoutput", "tempfile.mktemp", "asyncio.create_subprocess_shell"),
}
FORBIDDEN_MODULES = {
    *("pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "jsonpickle", "multiprocessing"),
}
STARTERS = {"Popen", "run", "call", "check_call", "check_output", "run_process", "open_process"}
"""Functions that start a program, by the last part of their name."""


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return ""


def dangers(text: str) -> list[str]:
    """What a source has of it, as line: what."""
    found: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = _dotted(node.func)
            if name in FORBIDDEN_CALLS:
                found.append(f"{node.lineno}: {name}")
            for keyword in node.keywords:
                off = isinstance(keyword.value, ast.Constant) and not keyword.value.value
                if keyword.arg == "shell" and name.rpartition(".")[2] in STARTERS and not off:
                    found.append(f"{node.lineno}: shell=")
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        found += [f"{node.lineno}: {name}" for name in names if name.partition(".")[0] in FORBIDDEN_MODULES]
    return found


def test_the_sources_have_none() -> None:
    assert len(SOURCES) > 100
    assert {str(path.relative_to(ROOT)): found for path in SOURCES if (found := dangers(path.read_text()))} == {}


@pytest.mark.parametrize(
    "text",
    [
        *("eval('1')", "import pickle", "from pickle import loads", "import os\nos.system('x')"),
        *("subprocess.run('x', shell=True)", "Popen('x', shell=x)", "trio.run_process('x', shell=1)"),
    ],
)
def test_each_would_be_found(text: str) -> None:
    assert dangers(text)


def test_what_is_harmless_is_not() -> None:
    assert dangers("import json\nre.compile('x')\nf(shell=False)\nself.exec(1)") == []
