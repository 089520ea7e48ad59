"""The standard tree (Python's own library, repeated) and digests that tell whether a tree is right.

Must not know: which filesystem a tree lies on.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

_LEFT_OUT = frozenset(("__pycache__", "site-packages", "dist-packages"))
_SHORT_MAX = 32_768


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree on disk: `files` counts everything but directories; `digest` see digest()."""

    directory: Path
    files: int
    size_bytes: int
    digest: str


def library() -> Path:
    """The directory that the standard tree repeats."""
    usual = Path("/usr/lib/python3.11")
    return usual if usual.is_dir() else Path(os.__file__).parent


def library_files() -> list[Path]:
    """Its files and links, relative and sorted, compiled and installed ones left out.

    Links that lead out of the library are left out, too: a step that writes through one must not reach the machine.
    """
    found: list[Path] = []
    top = library()
    for directory, names, files in os.walk(top):
        names[:] = sorted(set(names) - _LEFT_OUT)
        here = Path(directory).relative_to(top)
        found.extend(here / name for name in files if not _leads_out(Path(directory) / name, top))
    return sorted(found)


def _leads_out(path: Path, top: Path) -> bool:
    return path.is_symlink() and not path.resolve().is_relative_to(top.resolve())


def make_tree(into: Path, files: int) -> Tree:
    """Make the standard tree of about `files` files at `into`, which must not exist.

    Fewer than the library has: its small files alone, for short runs.
    """
    names = library_files()
    top = library()
    if files < len(names):
        small = [name for name in names if (top / name).is_file() and (top / name).stat().st_size < _SHORT_MAX]
        names = small[:files]
    copies = max(1, round(files / len(names)))
    for number in range(copies):
        copy = into / f"copy-{number:03}"
        for name in names:
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(top / name, target, follow_symlinks=False)
    found, size, mark = survey(into)
    assert found == copies * len(names)
    return Tree(into, found, size, mark)


def survey(directory: Path, *, leave_out: str = "") -> tuple[int, int, str]:
    """(files, bytes, digest) of a tree; the digest covers names, types, modes, link targets and content.

    Args:
        leave_out: Name of a subdirectory of `directory` to pass over.
    """
    hasher = blake3()
    count = size = 0
    for where, names, files in os.walk(directory):
        if leave_out and where == os.fspath(directory) and leave_out in names:
            names.remove(leave_out)
        names.sort()
        linked = [name for name in names if os.path.islink(os.path.join(where, name))]
        here = os.path.relpath(where, directory)
        hasher.update(b"%s\0%o\0" % (os.fsencode(here), stat.S_IMODE(os.stat(where).st_mode)))
        for name in sorted(files + linked):
            path = os.path.join(where, name)
            status = os.lstat(path)
            count += 1
            if stat.S_ISLNK(status.st_mode):
                content = os.fsencode(os.readlink(path))
            else:
                with open(path, "rb", buffering=0) as file:
                    content = file.readall()
            size += len(content)
            hasher.update(b"%s\0%o\0%d\0" % (os.fsencode(name), status.st_mode, len(content)))
            hasher.update(content)
    return count, size, hasher.hexdigest()


def same(directory: Path, tree: Tree, *, leave_out: str = "") -> bool:
    """Whether a directory holds what `tree` holds, byte by byte."""
    return survey(directory, leave_out=leave_out) == (tree.files, tree.size_bytes, tree.digest)


def archive(tree: Tree, into: Path) -> Path:
    """A tar of the tree's content (no leading directory)."""
    subprocess.run(["tar", "-C", tree.directory, "-cf", into, "."], check=True, timeout=300)
    return into


def shared_tree(directory: Path, files: int) -> Tree:
    """The standard tree of about `files` files, made once for a run below its directory."""
    into = directory / f"tree-{files}"
    if into.exists():
        return Tree(into, *survey(into))
    return make_tree(into, files)
