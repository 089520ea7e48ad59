"""File operations: what a kernel asks of a tree, by node id. Stateless: no handles, no lookup counts.

What each does is told in immediate.py; here missing pages are loaded and a full log is waited for.
"""

from __future__ import annotations

import errno
import itertools
import stat
from collections.abc import Iterator
from functools import partial

from heliosfs.core import directory
from heliosfs.core.attributes import SetAttr
from heliosfs.core.errors import FsError, NeedPages, StaleHandle
from heliosfs.core.ids import INO_BITS, INO_MASK, ROOT_INO, Ino, Lsn, NodeId, ViewNo, node_id
from heliosfs.core.inode import Inode
from heliosfs.core.radix import LEAF_MAX, Tree
from heliosfs.filesystem.immediate import Immediate
from heliosfs.filesystem.types import Caller, Entry, StatFs
from heliosfs.storage.backing import BackingFile, BackingFiles, BackingKey, BackingPlan
from heliosfs.storage.breath import Breath


class FileOperations(Immediate):
    """Reads and changes of files, directories and links.

    Every operation may raise FsError ESTALE (the file, branch or snapshot is gone), EIO (Damaged), and,
    where it changes something, EROFS in a snapshot; OSError ENOSPC or EIO from the log. When pages are in
    memory nothing suspends.
    """

    backings: BackingFiles

    # --- looking -------------------------------------------------------------------------------------

    async def lookup(self, parent: NodeId, name: bytes) -> Entry:
        """The inode of a name. Raises FsError ENOENT, ENOTDIR, ENAMETOOLONG."""
        found = await self.settled(self.try_find, parent, name)
        if found is None:
            raise FsError(errno.ENOENT)
        return found

    async def getattr(self, node: NodeId) -> Inode:
        """The attributes."""
        return await self.settled(self.try_getattr, node)

    async def readlink(self, node: NodeId) -> bytes:
        """The target of a symbolic link. Raises FsError EINVAL."""
        return await self.settled(self.try_readlink, node)

    async def readdir(self, node: NodeId, cookie: int, limit: int) -> list[tuple[bytes, Entry, int]]:
        """Up to about `limit` entries behind `cookie` (0: the start): (name, entry, cookie to go on from).

        Without `.` and `..`; [] at the end. Names with one cookie come together. Raises FsError ENOTDIR.
        """
        return await self.settled(self.try_readdir, node, cookie, limit)

    # --- names ---------------------------------------------------------------------------------------

    async def make(
        self,
        parent: NodeId,
        name: bytes,
        mode: int,
        caller: Caller,
        *,
        rdev: int = 0,
        target: bytes | None = None,
    ) -> Entry:
        """A new file, directory, link or node; `mode` has the type and the umask is applied already.

        Raises:
            FsError: EEXIST, ENOENT, ENOTDIR, ENAMETOOLONG, EINVAL, EMLINK.
        """
        return await self.settled(self.try_make, parent, name, mode, caller, 0, rdev, target or b"")

    async def link(self, node: NodeId, new_parent: NodeId, new_name: bytes, caller: Caller) -> Entry:
        """A further name. Raises FsError EPERM (directory), EXDEV (another view), EEXIST, EMLINK, ENOENT."""
        return await self.settled(self.try_link, node, new_parent, new_name)

    async def unlink(self, parent: NodeId, name: bytes, caller: Caller) -> None:
        """Remove a name of anything but a directory. Raises FsError EISDIR, ENOENT, ENOTDIR."""
        await self.settled(self.try_unlink, parent, name)

    async def rmdir(self, parent: NodeId, name: bytes, caller: Caller) -> None:
        """Remove an empty directory. Raises FsError ENOTEMPTY, ENOTDIR, ENOENT."""
        await self.settled(self.try_rmdir, parent, name)

    async def rename(
        self,
        parent: NodeId,
        name: bytes,
        new_parent: NodeId,
        new_name: bytes,
        flags: int,
        caller: Caller,
    ) -> None:
        """rename(2), with RENAME_NOREPLACE, _EXCHANGE, _WHITEOUT. Raises FsError as there; EXDEV between views."""
        await self.settled(self.try_rename, parent, name, new_parent, new_name, flags)

    # --- attributes ----------------------------------------------------------------------------------

    async def setattr(self, node: NodeId, wanted: SetAttr, caller: Caller) -> Inode:
        """Change attributes; the size included (truncate). Raises FsError EISDIR, EINVAL, EFBIG."""
        return await self.settled(self.try_setattr, node, wanted)

    async def getxattr(self, node: NodeId, name: bytes) -> bytes:
        """The value of an extended attribute. Raises FsError ENODATA; EOPNOTSUPP, EINVAL: no such name."""
        value = await self.settled(self.try_getxattr, node, name)
        if value is None:
            raise FsError(errno.ENODATA)
        return value

    async def listxattr(self, node: NodeId, *, trusted: bool = True) -> list[bytes]:
        """Names of the extended attributes, sorted; of trusted.* if asked for."""
        return await self.settled(partial(self.try_listxattr, trusted=trusted), node)

    async def setxattr(
        self,
        node: NodeId,
        name: bytes,
        value: bytes,
        flags: int,
        caller: Caller,
        *,
        kill_set_gid: bool = False,
    ) -> None:
        """Set an extended attribute. Raises FsError E2BIG, ERANGE, ENOSPC, EEXIST, ENODATA.

        Args:
            kill_set_gid: See `try_setxattr`.
        """
        await self.settled(partial(self.try_setxattr, kill_set_gid=kill_set_gid), node, name, value, flags)

    async def removexattr(self, node: NodeId, name: bytes, caller: Caller) -> None:
        """Remove an extended attribute. Raises FsError ENODATA."""
        await self.settled(self.try_removexattr, node, name)

    # --- content -------------------------------------------------------------------------------------

    async def read(self, node: NodeId, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; b"" at the end. Raises FsError EISDIR, EINVAL, EIO."""
        plan = await self.settled(self.try_plan_read, node, offset, size)
        return await self.reader.read(plan) if plan else b""

    async def backing(self, node: NodeId) -> BackingFile | None:
        """A plain file with the content of a stored file, verified, shared by all that have this content.

        Give it back to `backings` when nobody reads it any more. None: there is no such file to be had, and
        `read` serves as always.
        """
        plan = await self.settled(self._plan_backing, node)
        return await self.backings.take(plan) if plan is not None else None

    def backing_key(self, node: NodeId) -> BackingKey | None:
        """Names the content of a stored file, as its backing file's key does; None: it has none, or not at hand."""
        try:
            plan = self._plan_backing(node)
        except NeedPages:
            return None
        return plan.key if plan is not None else None

    def _plan_backing(self, node: NodeId) -> BackingPlan | None:
        return self.backings.plan(self.try_getattr(node), self.engine.pages)

    async def write(self, node: NodeId, offset: int, content: bytes, caller: Caller) -> int:
        """Write all of `content`, at most 1 MiB, at `offset`. Returns its length.

        Raises:
            FsError: EISDIR, EINVAL, EFBIG. OSError: ENOSPC.
        """
        return await self.settled(self.try_write, node, offset, content)

    async def data_runs(self, node: NodeId) -> list[tuple[int, int]]:
        """(offset, length) of what is not hole, in order."""
        return await self.settled(self.try_data_runs, node)

    async def fsync(self, node: NodeId) -> None:
        """Return when everything written so far survives power loss. Raises OSError EIO."""
        await self.wait_durable(Lsn(self.log.end))

    async def statfs(self) -> StatFs:
        """Blocks of the filesystem that holds the store; inode numbers of the store."""
        return self.try_statfs()

    # --- paths ---------------------------------------------------------------------------------------

    async def path_of(self, node: NodeId) -> bytes:
        """A path of the node, relative to the root of its view; b"" for the root.

        O(depth) for a directory, and the names in each on the way; for a file the whole view may be searched, in
        slices: what is renamed meanwhile may be missed. Raises StaleHandle: unlinked, or missed.
        """
        view, ino = ViewNo(node >> INO_BITS), Ino(node & INO_MASK)
        inode = await self.getattr(node)
        if inode.nlink == 0:
            raise StaleHandle("this file has no name any more")
        names: list[bytes] = []
        breath = Breath()
        if not inode.is_dir():
            ino, name = await self._find_name(view, ino, breath)
            names.append(name)
            inode = await self.getattr(node_id(view, ino))
        while inode.ino != ROOT_INO:
            parent = await self.getattr(node_id(view, inode.parent))
            names.append(await self._name_in(parent.tree, inode.ino, breath))
            inode = parent
        return b"/".join(reversed(names))

    def _slices(self, tree: Tree) -> Iterator[list[directory.Dentry]]:
        """The entries of a directory as it is now: its tree never changes, so others may go on between slices."""
        entries = directory.entries(tree, self.engine.pages)
        while True:
            with self.cache.blocking():
                part = list(itertools.islice(entries, LEAF_MAX))
            if not part:
                return
            yield part

    async def _name_in(self, tree: Tree, ino: Ino, breath: Breath) -> bytes:
        for part in self._slices(tree):
            for dentry in part:
                if dentry.ino == ino:
                    return dentry.name
            await breath.take()
        raise StaleHandle("this file has no name any more")

    async def _find_name(self, view: ViewNo, ino: Ino, breath: Breath) -> tuple[Ino, bytes]:
        """The directory that holds a name of a file, and the name. O(names of the view)."""
        waiting = [ROOT_INO]
        while waiting:
            try:
                parent = await self.getattr(node_id(view, waiting.pop()))
            except StaleHandle:
                continue
            for part in self._slices(parent.tree):
                for dentry in part:
                    if dentry.ino == ino:
                        return parent.ino, dentry.name
                    if dentry.kind == stat.S_IFDIR >> 12:
                        waiting.append(dentry.ino)
                await breath.take()
        raise StaleHandle("this file has no name any more")

    async def resolve(self, view: ViewNo, path: bytes) -> Entry:
        """The entry at a path relative to the root of a view. Raises FsError ENOENT, ENOTDIR."""
        at = Entry(node_id(view, Ino(1)), await self.getattr(node_id(view, Ino(1))))
        for name in path.split(b"/"):
            if name not in (b"", b"."):
                at = await self.lookup(at.node, name)
        return at
