"""The steps of the workload: what is timed, and the check of what it did.

Each takes a Site and returns (seconds, right). Only the program under test is inside the clock; preparing and
checking are not. Steps build on those before them. Must not know: which filesystem the site is on.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blake3 import blake3

from tests.bench.plan import Plan
from tests.bench.trees import Tree, archive, library, library_files, make_tree, same, survey

_TIMEOUT_S = 300
_NEEDLE = "def __exit__"
_BLOCK = 4096
_MEGABYTE = 1 << 20
_CLIENTS = 8
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")
_IMPORTED = (
    *("argparse", "ast", "base64", "bdb", "calendar", "cmd", "code", "codecs", "configparser", "copy", "csv"),
    *("dataclasses", "difflib", "dis", "doctest", "email", "fileinput", "fnmatch", "fractions", "ftplib"),
    *("gettext", "glob", "graphlib", "hashlib", "heapq", "html", "http", "imaplib", "inspect", "json"),
    *("linecache", "locale"),
    *("logging", "mailbox", "netrc", "numbers", "optparse", "pdb", "pickle", "platform", "plistlib", "pprint"),
    *("queue", "quopri", "random", "sched", "selectors", "shelve", "smtplib", "socket", "statistics", "string"),
    *("tarfile", "tempfile", "textwrap", "timeit", "tokenize", "trace", "typing", "unittest", "uuid", "wave"),
    "zipfile",
)


@dataclass(frozen=True, slots=True)
class Kit:
    """What the steps need, made once, outside of the filesystems under test."""

    plan: Plan
    tree: Tree
    entries: int
    tar: Path
    wheel: Path
    wheel_files: int
    wheel_digest: str
    needles: int
    imported: int
    block: bytes
    environment: dict[str, str]


def _unmarked(_: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Site:
    """An empty directory on a filesystem, and the kit; `mark` is told where the clock runs."""

    base: Path
    kit: Kit
    mark: Callable[[str], None] = _unmarked

    def begin(self) -> float:
        """The program under test begins; when. Of several, the last counts."""
        self.mark("begin")
        return time.perf_counter()

    def since(self, begun: float) -> float:
        """It has ended; the seconds that it took."""
        taken = time.perf_counter() - begun
        self.mark("end")
        return taken

    @property
    def tree(self) -> Path:
        return self.base / "tree"

    @property
    def copy(self) -> Path:
        return self.base / "copy"


def make_kit(plan: Plan, directory: Path) -> Kit:
    """Make everything below `directory`."""
    directory.mkdir(parents=True)
    tree = make_tree(directory / "standard-tree", plan.tree_files)
    home = directory / "home"
    home.mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PYTHON", "PIP_"))},
        "HOME": os.fspath(home),
        "LC_ALL": "C",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        **{f"GIT_{who}_{what}": "bench@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    wheel, files, mark = _make_wheel(directory, 300 if not plan.short else 20)
    grep = _run(environment, tree.directory, "grep", "-ar", _NEEDLE, ".")
    return Kit(
        plan=plan,
        tree=tree,
        entries=sum(len(names) + len(files) for _, names, files in os.walk(tree.directory)) + 1,
        tar=archive(tree, directory / "tree.tar"),
        wheel=wheel,
        wheel_files=files,
        wheel_digest=mark,
        needles=grep.count(b"\n"),
        imported=int(_import(environment, tree.directory / "copy-000", "-B")),
        block=random.Random(11).randbytes(_MEGABYTE),
        environment=environment,
    )


def _run(environment: dict[str, str], where: Path, *command: str | Path) -> bytes:
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        raise OSError(f"{command[0]}: exit {done.returncode}: {done.stderr[-500:].decode(errors='replace')}")
    return done.stdout


def _timed(site: Site, where: Path, *command: str | Path) -> tuple[float, bytes]:
    start = site.begin()
    said = _run(site.kit.environment, where, *command)
    return site.since(start), said


def _make_wheel(directory: Path, most: int) -> tuple[Path, int, str]:
    """(wheel, files, digest of their contents): a package that is Python's library."""
    names = [name for name in library_files() if name.suffix == ".py"][:most]
    wheel = directory / "standardtree-1.0-py3-none-any.whl"
    info = "standardtree-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as out:
        listed = [f"standardtree/{name}" for name in names]
        for name, inside in zip(names, listed, strict=True):
            out.write(library() / name, inside)
        out.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: standardtree\nVersion: 1.0\n")
        about = "Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        out.writestr(f"{info}/WHEEL", about)
        listed += [f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD"]
        out.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in listed))
    return wheel, len(names), _contents(library(), names)


def _contents(top: Path, names: list[Path]) -> str:
    hasher = blake3()
    for name in names:
        hasher.update((top / name).read_bytes())
    return hasher.hexdigest()


# --- the steps -----------------------------------------------------------------------------------------


def untar(site: Site) -> tuple[float, bool]:
    site.tree.mkdir()
    taken, _ = _timed(site, site.base, "tar", "-C", site.tree, "-xf", site.kit.tar)
    return taken, same(site.tree, site.kit.tree)


def empty_caches(site: Site) -> None:
    """Have the kernel forget names, attributes and pages, of every filesystem; what daemons hold stays.

    The short form does without: others work on the machine, and its figures mean nothing.
    """
    if not site.kit.plan.short:
        os.sync()
        _DROP_CACHES.write_text("3")


def find_cold(site: Site) -> tuple[float, bool]:
    empty_caches(site)
    taken, said = _timed(site, site.base, "find", site.tree)
    return taken, said.count(b"\n") == site.kit.entries


def grep_cold(site: Site) -> tuple[float, bool]:
    empty_caches(site)
    taken, said = _timed(site, site.tree, "grep", "-ar", _NEEDLE, ".")
    return taken, said.count(b"\n") == site.kit.needles


def git_status_cold(site: Site) -> tuple[float, bool]:
    empty_caches(site)
    taken, said = _timed(site, site.tree, "git", "status", "--porcelain")
    return taken, said == b""


def find(site: Site) -> tuple[float, bool]:
    _run(site.kit.environment, site.base, "find", site.tree)
    taken, said = _timed(site, site.base, "find", site.tree)
    return taken, said.count(b"\n") == site.kit.entries


def grep(site: Site) -> tuple[float, bool]:
    """The second reading: the first has filled the page cache, and made access times stale."""
    _run(site.kit.environment, site.tree, "grep", "-ar", _NEEDLE, ".")
    return grep_again(site)


def grep_again(site: Site) -> tuple[float, bool]:
    taken, said = _timed(site, site.tree, "grep", "-ar", _NEEDLE, ".")
    return taken, said.count(b"\n") == site.kit.needles


def git_commit(site: Site) -> tuple[float, bool]:
    script = "git init -q . && git config gc.auto 0 && git add -A && git commit -q -m all"
    taken, _ = _timed(site, site.tree, "sh", "-c", script)
    listed = _run(site.kit.environment, site.tree, "git", "ls-files", "-z").count(b"\0")
    clean = _run(site.kit.environment, site.tree, "git", "status", "--porcelain") == b""
    return taken, listed == site.kit.tree.files and clean


def git_status(site: Site) -> tuple[float, bool]:
    for _ in range(2):
        _run(site.kit.environment, site.tree, "git", "status", "--porcelain")
    taken, said = _timed(site, site.tree, "git", "status", "--porcelain")
    return taken, said == b""


def git_checkout(site: Site) -> tuple[float, bool]:
    for entry in site.tree.iterdir():
        if entry.name != ".git":
            shutil.rmtree(entry)
    taken, _ = _timed(site, site.tree, "git", "checkout", "-q", "HEAD", "--", ".")
    # git keeps the executable bit alone of a mode; names, types and contents are compared by git itself.
    clean = _run(site.kit.environment, site.tree, "git", "status", "--porcelain") == b""
    files, size, _ = survey(site.tree, leave_out=".git")
    return taken, clean and (files, size) == (site.kit.tree.files, site.kit.tree.size_bytes)


def copy(site: Site) -> tuple[float, bool]:
    taken, _ = _timed(site, site.base, "cp", "-a", site.tree, site.copy)
    # A copy of a tree that could not be unpacked is none.
    whole = survey(site.tree, leave_out=".git")[0] == site.kit.tree.files
    return taken, whole and survey(site.copy) == survey(site.tree)


def remove(site: Site) -> tuple[float, bool]:
    if not site.copy.is_dir():
        raise OSError("there is no copy to remove")
    taken, _ = _timed(site, site.base, "rm", "-rf", site.copy)
    return taken, not site.copy.exists() and survey(site.tree, leave_out=".git")[0] == site.kit.tree.files


def _loose(site: Site) -> list[Path]:
    return [site.base / "loose" / f"file-{number:05}" for number in range(site.kit.plan.loose_files)]


def create(site: Site) -> tuple[float, bool]:
    paths = _loose(site)
    (site.base / "loose").mkdir()
    names = [os.fspath(path) for path in paths]
    data = [b"%08d" % number + site.kit.block[8:_BLOCK] for number in range(len(names))]
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    start = site.begin()
    for name, content in zip(names, data, strict=True):
        fd = os.open(name, flags, 0o644)
        os.write(fd, content)
        os.close(fd)
    taken = site.since(start)
    right = len(os.listdir(site.base / "loose")) == len(paths)
    return taken, right and all(path.read_bytes() == content for path, content in zip(paths, data, strict=True))


def read(site: Site) -> tuple[float, bool]:
    names = [os.fspath(path) for path in _loose(site)]
    found: list[bytes] = []
    taken = 0.0
    for _ in range(2):
        found.clear()
        start = site.begin()
        for name in names:
            fd = os.open(name, os.O_RDONLY)
            found.append(os.read(fd, 65536))
            os.close(fd)
        taken = site.since(start)
    return taken, all(content == b"%08d" % at + site.kit.block[8:_BLOCK] for at, content in enumerate(found))


def stat(site: Site) -> tuple[float, bool]:
    names = [os.fspath(path) for path in _loose(site)]
    sizes: list[int] = []
    taken = 0.0
    for _ in range(2):
        start = site.begin()
        sizes = [os.stat(name).st_size for name in names]
        taken = site.since(start)
    return taken, sizes == [_BLOCK] * len(names)


def _stream_pieces(site: Site) -> list[bytes]:
    count = site.kit.plan.stream_bytes // _MEGABYTE
    return [b"%08d" % number + site.kit.block[8:] for number in range(count)]


def stream_write(site: Site) -> tuple[float, bool]:
    path = site.base / "stream"
    data = _stream_pieces(site)
    start = site.begin()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    for piece in data:
        os.write(fd, piece)
    os.close(fd)
    taken = site.since(start)
    with path.open("rb", buffering=0) as file:
        right = all(file.read(_MEGABYTE) == piece for piece in data) and file.read(1) == b""
    return taken, right


def _streamed(site: Site) -> tuple[float, bool]:
    """All of the file that `stream_write` wrote, a MiB at a time: seconds, and whether it is that."""
    buffer = bytearray(_MEGABYTE)
    found: list[int] = []
    start = site.begin()
    with (site.base / "stream").open("rb", buffering=0) as file:
        while file.readinto(buffer):
            found.append(int(buffer[:8]))
    taken = site.since(start)
    return taken, found == list(range(site.kit.plan.stream_bytes // _MEGABYTE))


def stream_read_cold(site: Site) -> tuple[float, bool]:
    empty_caches(site)
    return _streamed(site)


def stream_read(site: Site) -> tuple[float, bool]:
    """Of the file that the step before wrote, which its check has read once: the quickest of five; removes it.

    It copies memory and does nothing else, so that what others do to the caches is most of what differs.
    """
    taken, right = zip(*(_streamed(site) for _ in range(5)), strict=True)
    (site.base / "stream").unlink()
    return min(taken), all(right)


_CLIENT = """
import os, sys
top, count = sys.argv[1], int(sys.argv[2])
os.mkdir(top)
sys.stdin.readline()
for number in range(count):
    name = f"{top}/{number:05}"
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(fd, b"%08d" % number * 512)
    os.close(fd)
    fd = os.open(name, os.O_RDONLY)
    if os.read(fd, 4096) != b"%08d" % number * 512:
        sys.exit(1)
    os.close(fd)
    os.rename(name, name + ".new")
"""


def crowd(site: Site) -> tuple[float, bool]:
    """Eight processes at once: each creates, writes, reads and renames files of 4 KiB in a directory of its own."""
    count = max(site.kit.plan.loose_files // _CLIENTS, 4)
    tops = [site.base / f"client-{number}" for number in range(_CLIENTS)]
    clients = [
        subprocess.Popen([sys.executable, "-S", "-c", _CLIENT, top, str(count)], stdin=subprocess.PIPE)
        for top in tops
    ]
    try:
        end = time.monotonic() + _TIMEOUT_S
        while not all(top.is_dir() for top in tops) and time.monotonic() < end:
            time.sleep(0.01)
        start = site.begin()
        for client in clients:
            client.stdin.close()  # type: ignore[union-attr]
        codes = [client.wait(_TIMEOUT_S) for client in clients]
        taken = site.since(start)
    finally:
        for client in clients:
            client.kill()
            client.wait()
    wanted = {f"{number:05}.new" for number in range(count)}
    return taken, codes == [0] * _CLIENTS and all(set(os.listdir(top)) == wanted for top in tops)


def _sqlite(site: Site, mode: str) -> tuple[float, bool]:
    path = site.base / f"database-{mode}"
    count = site.kit.plan.transactions
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        set_to = connection.execute(f"pragma journal_mode={mode}").fetchone()[0]
        connection.execute("pragma synchronous=FULL")
        connection.execute("create table t (id integer primary key, content text)")
        start = site.begin()
        for number in range(count):
            connection.execute("begin")
            connection.execute("insert into t values (?, ?)", (number, "x" * 100))
            connection.execute("commit")
        taken = site.since(start)
    finally:
        connection.close()
    connection = sqlite3.connect(path)
    try:
        right = connection.execute("pragma integrity_check").fetchone()[0] == "ok"
        found = connection.execute("select count(*), sum(id), sum(length(content)) from t").fetchone()
    finally:
        connection.close()
    return taken, right and set_to == mode and found == (count, count * (count - 1) // 2, count * 100)


def sqlite_wal(site: Site) -> tuple[float, bool]:
    return _sqlite(site, "wal")


def sqlite_delete(site: Site) -> tuple[float, bool]:
    return _sqlite(site, "delete")


def pip_install(site: Site) -> tuple[float, bool]:
    target = site.base / "installed"
    words = ("install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check")
    command = (sys.executable, "-m", "pip", *words, "--root-user-action=ignore", "--target", target, site.kit.wheel)
    taken, _ = _timed(site, site.base, *command)
    names = sorted(path.relative_to(target / "standardtree") for path in target.rglob("standardtree/**/*.py"))
    right = len(names) == site.kit.wheel_files
    return taken, right and _contents(target / "standardtree", names) == site.kit.wheel_digest


def _import(environment: dict[str, str], where: Path, *more: str) -> bytes:
    """How many modules come from `where` when the list is imported; what is not there comes from elsewhere."""
    script = (
        "import sys, importlib; sys.path.insert(0, sys.argv[1])\n"
        "for name in sys.argv[2:]: importlib.import_module(name)\n"
        "print(sum(str(getattr(m, '__file__', '')).startswith(sys.argv[1]) for m in list(sys.modules.values())))"
    )
    command = (sys.executable, "-S", "-s", "-E", *more, "-c", script, os.fspath(where), *_IMPORTED)
    return _run(environment, where, *command)


def imports(site: Site) -> tuple[float, bool]:
    where = site.tree / "copy-000"
    # Leaves compiled files, which the next one reads: no step after this one looks at the tree.
    _import(site.kit.environment, where)
    start = site.begin()
    said = _import(site.kit.environment, where)
    return site.since(start), int(said) == site.kit.imported > 0


_STEPS: Final[dict[str, Callable[[Site], tuple[float, bool]]]] = {
    "untar": untar,
    "find, cold": find_cold,
    "find, warm": find,
    "grep -r, cold": grep_cold,
    "grep -r, warm": grep,
    "grep -r, warm, again": grep_again,
    "git init + add + commit": git_commit,
    "git status, cold": git_status_cold,
    "git status, warm": git_status,
    "git checkout of all": git_checkout,
    "cp -a inside": copy,
    "rm -rf": remove,
    "creates of 4 KiB": create,
    "stat, warm": stat,
    "open+read+close, warm": read,
    "eight clients": crowd,
    "sequential write": stream_write,
    "sequential read, cold": stream_read_cold,
    "sequential read, warm": stream_read,
    "SQLite transactions, WAL": sqlite_wal,
    "SQLite transactions, DELETE": sqlite_delete,
    "pip install of a wheel": pip_install,
    "python imports, warm": imports,
}

COLD: Final = frozenset(name for name in _STEPS if name.endswith(", cold"))


def steps_of(plan: Plan) -> dict[str, Callable[[Site], tuple[float, bool]]]:
    """All that can be done here: who empties the kernel's caches is root."""
    may = plan.short or os.access(_DROP_CACHES, os.W_OK)
    return {name: step for name, step in _STEPS.items() if may or name not in COLD}
