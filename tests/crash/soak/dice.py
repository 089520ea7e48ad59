"""Random operations for one client, chosen by what the model says is there; some of them must fail.

A client has a branch of its own, with branches below it, a directory of its own in `main`, and a directory
in `main` that all share, in which it makes, moves and removes names only. Must not know: who carries them out.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Collection
from pathlib import Path as FilePath
from typing import Any

from tests.crash.soak.model import Branch, Model, Node, Operation, Path

SHARED = b"shared"
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16
"""fallocate(2)."""
_NAMES = (b"a", b"b", b"c", b"d", b"e", b"\xff\xfe", b"n" * 200, b"sp ace")
_SIZE_MAX = 400_000

_WEIGHTS = {
    "write": 22,
    "append": 10,
    "truncate": 5,
    "copy": 5,
    "allocate": 4,
    "make": 16,
    "link": 4,
    "unlink": 7,
    "rmdir": 3,
    "rename": 9,
    "setxattr": 4,
    "removexattr": 2,
    "chmod": 2,
    "chown": 1,
    "utimens": 2,
    "fsync": 4,
    "hold": 1,
    "scribble": 3,
    "release": 1,
    "shared": 6,
    "checkpoint": 4,
    "fork": 2,
    "restore": 2,
    "forget": 2,
    "rename_snapshot": 1,
    "look": 1,
    "discard": 1,
    "adopt": 1,
    "persist": 2,
    "collect": 1,
    "root": 1,
}


_IN_PROCESS = ("shared", "adopt", "persist", "collect")
"""What programs on a mount do not do."""


class Dice:
    """One client's operations.

    Attributes:
        urged: Operations that are to come among the next ones.

    Args:
        write_max: Bytes of one write.
        scratch: A directory for trees to import. None: operations of programs on a mount, where imports are
            none, and where everybody keeps to himself.
        without: Operations that there are not.
    """

    def __init__(
        self,
        seed: str,
        client: int,
        model: Model,
        write_max: int,
        scratch: FilePath | None,
        without: Collection[str] = (),
    ) -> None:
        self._dice = random.Random(seed)
        self._model = model
        self._write_max = write_max
        self._scratch = scratch
        self._alone = scratch is None
        # What is there is looked at after each death: through a mount that costs ten system calls a file.
        self._files_max, self._snapshots_max, self._branches_max = (8, 3, 2) if self._alone else (16, 4, 3)
        left_out = (*without, *(_IN_PROCESS if self._alone else ()))
        self._weights = {v: w for v, w in _WEIGHTS.items() if v not in left_out}
        self._home = b"c%d" % client
        self._own = b"main/" + self._home
        self._number = 0
        self._held: bytes | None = None
        self.urged: list[Operation] = []

    def use(self, model: Model) -> None:
        """Another model; the server was opened anew, so that nothing is held open."""
        self._model = model
        self._held = None

    def next(self) -> Operation:
        """An operation."""
        dice = self._dice
        if self.urged and dice.random() < 0.3:
            return self.urged.pop(0)
        while True:
            verb = dice.choices(list(self._weights), list(self._weights.values()))[0]
            found: Operation | None = getattr(self, "_" + verb, self._on_file)(verb)
            if found is not None:
                if found[0] in ("restore", "adopt", "discard") and found[1] == self._held:
                    self._held = None
                return found

    # --- where ---------------------------------------------------------------------------------------

    def _branches(self) -> list[bytes]:
        return [p for p in self._model.branches if p == self._own or p.startswith(self._own + b"/")]

    def _place(self) -> tuple[bytes, Branch, Path]:
        """A branch, and the path in it below which all is this client's."""
        own = self._branches()
        if not own or self._dice.random() < 0.25:
            return b"main", self._model.branches[b"main"], (self._home,)
        at = self._dice.choice(own)
        return at, self._model.branches[at], ()

    def _nodes(self, branch: Branch, home: Path) -> list[tuple[Path, Node]]:
        try:
            top = self._model.find(branch, home)
        except Exception:
            return []
        return [(home + path, node) for path, node in top.paths()]

    def _some_name(self) -> bytes:
        dice = self._dice
        return dice.choice(_NAMES) if dice.random() < 0.8 else b"f%d" % dice.randrange(40)

    def _bytes(self) -> bytes:
        dice = self._dice
        size = dice.choice((1, 10, 100, 4096, dice.randrange(1, 5000), dice.randrange(1, self._write_max)))
        return dice.randbytes(min(size, self._write_max))

    # --- files ---------------------------------------------------------------------------------------

    def _make(self, verb: str) -> Operation | None:
        dice = self._dice
        at, branch, home = self._place()
        nodes = self._nodes(branch, home)
        if not nodes:
            # The client's directory in main is made first of all.
            return "make", b"main", home, stat.S_IFDIR | 0o755, b""
        if len(nodes) > self._files_max:
            return self._on_file("unlink")
        parents = [path for path, node in nodes if node.is_dir() and len(path) < 6]
        parent = (
            dice.choice(parents) if parents and (self._alone or dice.random() < 0.97) else dice.choice(nodes)[0]
        )
        kind = dice.choices((stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO), (60, 25, 10, 5))[0]
        target = dice.choice((b"a", b"../b/c", b"t" * 300)) if kind == stat.S_IFLNK else b""
        mode = 0o777 if kind == stat.S_IFLNK else dice.choice((0o644, 0o600, 0o755, 0o400))
        return "make", at, (*parent, self._some_name()), kind | mode, target

    def _on_file(self, verb: str) -> Operation | None:
        dice = self._dice
        at, branch, home = self._place()
        # Never the top itself: a directory in main stays, and so does a root.
        nodes = [(path, node) for path, node in self._nodes(branch, home) if path != home]
        if not nodes:
            return None
        wanted = {"rmdir": stat.S_IFDIR, "write": stat.S_IFREG, "append": stat.S_IFREG, "truncate": stat.S_IFREG}
        wanted |= {"copy": stat.S_IFREG, "allocate": stat.S_IFREG}
        kind = wanted.get(verb, stat.S_IFREG if verb in ("unlink", "hold") and dice.random() < 0.8 else 0)
        fitting = [n for n in nodes if n[1].kind == kind] if kind else nodes
        if not fitting or (kind and dice.random() < 0.02):
            fitting = nodes
        path, node = dice.choice(fitting)
        if verb == "write":
            if node.kind != stat.S_IFREG:
                return None
            top = len(node.data) + 8192 if dice.random() < 0.9 else 300_000
            return verb, at, path, min(dice.randrange(top + 1), _SIZE_MAX), self._bytes()
        if verb == "append":
            return (verb, at, path, self._bytes()) if len(node.data) < _SIZE_MAX and not node.is_dir() else None
        if verb == "truncate":
            return verb, at, path, dice.choice((0, dice.randrange(len(node.data) + 100), dice.randrange(20_000)))
        if verb == "copy":
            return self._into_another(at, path, node, nodes)
        if verb == "allocate":
            if node.kind != stat.S_IFREG:
                return None
            mode = dice.choice((0, _KEEP_SIZE, _PUNCH_HOLE | _KEEP_SIZE, _ZERO_RANGE))
            return verb, at, path, mode, dice.randrange(len(node.data) + 5000), dice.randrange(1, 20_000)
        if verb == "link":
            return verb, at, path, (*self._some_directory(nodes, home), self._some_name())
        if verb == "rename":
            new = (*self._some_directory(nodes, home), self._some_name())
            if dice.random() < 0.4:
                new = dice.choice(nodes)[0]
            return verb, at, path, new, dice.choices((0, 1, 2), (6, 2, 2))[0]
        if verb == "setxattr":
            if node.kind not in (stat.S_IFREG, stat.S_IFDIR):
                return None
            return verb, at, path, dice.choice((b"user.x", b"user.y")), dice.randbytes(dice.choice((0, 5, 300)))
        if verb == "removexattr":
            return (verb, at, path, dice.choice((b"user.x", b"user.y"))) if node.xattrs else None
        if verb == "fsync" and self._alone and node.kind not in (stat.S_IFREG, stat.S_IFDIR):
            return None
        if verb == "chmod":
            if node.kind == stat.S_IFLNK and self._alone:
                return None
            return verb, at, path, dice.choice((0o644, 0o600, 0o755, 0o400, 0o711))
        if verb == "chown":
            return verb, at, path, dice.choice((0, 1, 1000))
        if verb == "utimens":
            return verb, at, path, dice.randrange(1 << 60)
        if verb == "hold":
            if self._held is not None or node.kind != stat.S_IFREG or sum(n is node for _, n in nodes) > 1:
                return None
            self._held = at
        return verb, at, path

    def _into_another(self, at: bytes, path: Path, node: Node, nodes: list[tuple[Path, Node]]) -> Operation | None:
        """A range of a file into another one, both of one client."""
        dice = self._dice
        others = [(path, other) for path, other in nodes if other.kind == stat.S_IFREG and other is not node]
        if node.kind != stat.S_IFREG or not node.data or not others:
            return None
        target, other = dice.choice(others)
        start = dice.randrange(len(node.data))
        length = dice.randrange(1, len(node.data) - start + 1)
        into = dice.randrange(len(other.data) + 8192)
        return ("copy", at, path, start, target, into, length) if into + length <= _SIZE_MAX else None

    def _some_directory(self, nodes: list[tuple[Path, Node]], home: Path) -> Path:
        return self._dice.choice([home, *(path for path, node in nodes if node.is_dir() and len(path) < 6)])

    def _scribble(self, verb: str) -> Operation | None:
        if self._held is None:
            return None
        return verb, self._held, self._dice.randrange(20_000), self._bytes()

    def _release(self, verb: str) -> Operation | None:
        if self._held is None:
            return None
        at, self._held = self._held, None
        return verb, at

    def _shared(self, verb: str) -> Operation | None:
        """Names that every client makes, moves and removes: what happens depends on who comes first."""
        dice = self._dice
        main = self._model.branches[b"main"]
        if SHARED not in main.root.names:
            return "make", b"main", (SHARED,), stat.S_IFDIR | 0o777, b""
        path = (SHARED, b"s%d" % dice.randrange(8))
        other = (SHARED, b"s%d" % dice.randrange(8))
        what = dice.choice(("file", "directory", "unlink", "rmdir", "rename", "rename", "rename"))
        if what == "file":
            return "make", b"main", path, stat.S_IFREG | 0o644, b""
        if what == "directory":
            return "make", b"main", path, stat.S_IFDIR | 0o755, b""
        if what == "rename":
            return what, b"main", path, other, dice.choice((0, 1, 2))
        return what, b"main", path

    # --- versions ------------------------------------------------------------------------------------

    def _name(self, stem: bytes) -> bytes:
        self._number += 1
        return stem + b"-%s-%d" % (self._home, self._number)

    def _owned(self) -> tuple[bytes, Branch] | None:
        own = self._branches()
        if not own:
            return None
        at = self._dice.choice(own)
        return at, self._model.branches[at]

    def _checkpoint(self, verb: str) -> Operation | None:
        # In main, too: there it holds what others do at the same time.
        found = (
            self._owned() if self._alone or self._dice.random() < 0.7 else (b"main", self._model.branches[b"main"])
        )
        if found is None:
            return None
        at, branch = found
        if len(branch.snapshots) >= self._snapshots_max:
            return self._forget_one(at, branch)
        taken = [s.name for s in branch.snapshots if s.name is not None and s.name != b"base"]
        if at != b"main" and taken and self._dice.random() < 0.05:
            return verb, at, taken[0]
        unnamed = at != b"main" and self._dice.random() < 0.4
        return verb, at, None if unnamed else self._name(b"v")

    def _forget_one(self, at: bytes, branch: Branch) -> Operation | None:
        if at == b"main":
            # Each forgets its own alone, so that nobody's choice is gone before it is carried out.
            names = [
                s.name for s in branch.snapshots if s.name is not None and s.name.startswith(b"v-" + self._home)
            ]
        else:
            names = [s.name for s in branch.snapshots if s.name is not None]
        return ("forget", at, self._dice.choice(names)) if names else None

    def _forget(self, verb: str) -> Operation | None:
        found = self._owned()
        return self._forget_one(*found) if found else None

    def _fork(self, verb: str) -> Operation | None:
        found = self._owned()
        if found is None:
            return verb, b"main", self._home, None
        at, branch = found
        if len(self._branches()) >= self._branches_max or at.count(b"/") > 2:
            return self._discard(verb)
        names = [s.name for s in branch.snapshots if s.name is not None]
        snapshot = self._dice.choice(names) if names and self._dice.random() < 0.5 else None
        return verb, at, self._name(b"b"), snapshot

    def _discard(self, verb: str) -> Operation | None:
        below = [path for path in self._branches() if path != self._own]
        return ("discard", self._dice.choice(below)) if below else None

    def _restore(self, verb: str) -> Operation | None:
        found = self._owned()
        if found is None or len(found[1].snapshots) > self._snapshots_max:
            return self._forget(verb)
        names = [s.name for s in found[1].snapshots if s.name is not None]
        if not names:
            return None
        return verb, found[0], self._dice.choice([*names, b"latest"])

    def _rename_snapshot(self, verb: str) -> Operation | None:
        found = self._owned()
        names = [s.name for s in found[1].snapshots if s.name not in (None, b"base")] if found else []
        return (verb, found[0], self._dice.choice(names), self._name(b"r")) if found and names else None

    def _look(self, verb: str) -> Operation | None:
        found = self._owned()
        names = [s.name for s in found[1].snapshots if s.name is not None] if found else []
        return (verb, found[0], self._dice.choice(names)) if found and names else None

    def _persist(self, verb: str) -> Operation | None:
        return verb, b"main"

    def _collect(self, verb: str) -> Operation | None:
        return verb, b"main"

    def _root(self, verb: str) -> Operation | None:
        found = self._owned()
        return (verb, found[0]) if found else None

    # --- imports -------------------------------------------------------------------------------------

    def _adopt(self, verb: str) -> Operation | None:
        """Make a tree on another filesystem and import it."""
        found = self._owned()
        if found is None or len(found[1].snapshots) > self._snapshots_max:
            return self._forget(verb)
        self._number += 1
        assert self._scratch is not None
        source = self._scratch / f"import-{self._home.decode()}-{self._number}"
        return verb, found[0], self._spec(source, 0), str(source)

    def _spec(self, path: FilePath, depth: int) -> Any:
        dice = self._dice
        mtime_ns = dice.randrange(1 << 59)
        if depth and (depth > 2 or dice.random() < 0.7):
            data = self._bytes()
            mode = dice.choice((0o644, 0o600))
            path.write_bytes(data)
            path.chmod(mode)
            spec: Any = (stat.S_IFREG | mode, mtime_ns, data)
        else:
            path.mkdir(mode=0o755)
            names = [b"i%d" % n for n in range(dice.randrange(5))]
            below = {name: self._spec(path / name.decode(), depth + 1) for name in names}
            spec = (stat.S_IFDIR | 0o755, mtime_ns, below)
        os.utime(path, ns=(mtime_ns, mtime_ns))
        return spec
