"""File operations: what a kernel asks of a tree, by node id. Stateless: no handles, no lookup counts."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from heliosfs.core import attributes, data, directory, extent, namespace, rename
from heliosfs.core.attributes import SetAttr
from heliosfs.core.directory import NAME_MAX
from heliosfs.core.errors import FsError, StaleHandle
from heliosfs.core.ids import INO_BITS, INO_MASK, Ino, Lsn, NodeId, ViewNo, node_id
from heliosfs.core.inode import Inode
from heliosfs.core.oplog import Make
from heliosfs.filesystem.door import Door
from heliosfs.filesystem.types import Caller, Entry, StatFs
from heliosfs.storage.reading import Reader


class FileOperations(Door):
    """Reads and changes of files, directories and links.

    Every operation may raise FsError ESTALE (the file, branch or snapshot is gone), EIO (Damaged), and,
    where it changes something, EROFS in a snapshot; OSError ENOSPC or EIO from the log. When pages are in
    memory nothing suspends.
    """

    reader: Reader
    store_path: Path

    # --- looking -------------------------------------------------------------------------------------

    async def lookup(self, parent: NodeId, name: bytes) -> Entry:
        """The inode of a name. Raises FsError ENOENT, ENOTDIR, ENAMETOOLONG."""
        return await self.planned(self._lookup, parent, name)

    def _lookup(self, parent: NodeId, name: bytes) -> Entry:
        view = ViewNo(parent >> INO_BITS)
        inode = self.engine.inode(view, Ino(parent & INO_MASK))
        if inode.mode & 0o170000 != stat.S_IFDIR:
            raise FsError(errno.ENOTDIR)
        dentry = directory.find(inode.tree, name, self.engine.pages)
        if dentry is None:
            raise FsError(errno.ENAMETOOLONG if len(name) > NAME_MAX else errno.ENOENT)
        return self._entry(view, self.engine.inode(view, dentry.ino))

    def _entry(self, view: ViewNo, inode: Inode) -> Entry:
        branch = self.engine.branches.get(view)
        generation = 0
        if branch is not None and branch.generations:
            generation = branch.generations.get(inode.ino, 0)
        return Entry(NodeId(view << INO_BITS | inode.ino), inode, generation)

    async def getattr(self, node: NodeId) -> Inode:
        """The attributes."""
        return await self.planned(self.engine.inode, ViewNo(node >> INO_BITS), Ino(node & INO_MASK))

    async def readlink(self, node: NodeId) -> bytes:
        """The target of a symbolic link. Raises FsError EINVAL."""
        inode = await self.getattr(node)
        if not stat.S_ISLNK(inode.mode):
            raise FsError(errno.EINVAL)
        return inode.target

    async def readdir(self, node: NodeId, cookie: int, limit: int) -> list[tuple[bytes, Entry, int]]:
        """Up to about `limit` entries behind `cookie` (0: the start): (name, entry, cookie to go on from).

        Without `.` and `..`; [] at the end. Names with one cookie come together. Raises FsError ENOTDIR.
        """
        return await self.planned(self._readdir, node, cookie, limit)

    def _readdir(self, node: NodeId, cookie: int, limit: int) -> list[tuple[bytes, Entry, int]]:
        view = ViewNo(node >> INO_BITS)
        inode = self.engine.inode(view, Ino(node & INO_MASK))
        if not inode.is_dir():
            raise FsError(errno.ENOTDIR)
        found: list[tuple[bytes, Entry, int]] = []
        for key, bucket in directory.after(inode.tree, cookie, self.engine.pages):
            for name, ino, _ in bucket:
                found.append((name, self._entry(view, self.engine.inode(view, ino)), key))
            if len(found) >= limit:
                break
        return found

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

        def plan() -> Make:
            return namespace.plan_make(
                self.engine,
                view,
                Ino(parent & INO_MASK),
                name,
                mode,
                caller.uid,
                caller.gid,
                self.now(),
                rdev=rdev,
                target=target or b"",
            )

        view = ViewNo(parent >> INO_BITS)
        return self._entry(view, await self.change(plan))

    async def link(self, node: NodeId, new_parent: NodeId, new_name: bytes, caller: Caller) -> Entry:
        """A further name. Raises FsError EPERM (directory), EXDEV (another view), EEXIST, EMLINK, ENOENT."""
        view = self._one_view(node, new_parent)
        inode = await self.change(
            namespace.plan_link,
            self.engine,
            view,
            Ino(node & INO_MASK),
            Ino(new_parent & INO_MASK),
            new_name,
            self.now(),
        )
        return self._entry(view, inode)

    async def unlink(self, parent: NodeId, name: bytes, caller: Caller) -> None:
        """Remove a name of anything but a directory. Raises FsError EISDIR, ENOENT, ENOTDIR."""
        await self.change(
            namespace.plan_unlink,
            self.engine,
            ViewNo(parent >> INO_BITS),
            Ino(parent & INO_MASK),
            name,
            self.now(),
        )

    async def rmdir(self, parent: NodeId, name: bytes, caller: Caller) -> None:
        """Remove an empty directory. Raises FsError ENOTEMPTY, ENOTDIR, ENOENT."""
        await self.change(
            namespace.plan_remove_directory,
            self.engine,
            ViewNo(parent >> INO_BITS),
            Ino(parent & INO_MASK),
            name,
            self.now(),
        )

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
        view = self._one_view(parent, new_parent)
        if self.log.over_budget:
            await self.persister.wait_for_room()
        record = await self.planned(
            rename.plan_rename,
            self.engine,
            view,
            Ino(parent & INO_MASK),
            name,
            Ino(new_parent & INO_MASK),
            new_name,
            flags,
            self.now(),
        )
        if record is not None:
            self.carry_out(record)

    def _one_view(self, node: NodeId, other: NodeId) -> ViewNo:
        view = ViewNo(node >> INO_BITS)
        if view != other >> INO_BITS:
            raise FsError(errno.EXDEV)
        return view

    def forget(self, node: NodeId) -> None:
        """The kernel knows this node no longer: an unlinked inode is freed."""
        branch = self.engine.branches.get(ViewNo(node >> INO_BITS))
        if branch is not None and branch.orphans:
            branch.orphans.pop(Ino(node & INO_MASK), None)

    # --- attributes ----------------------------------------------------------------------------------

    async def setattr(self, node: NodeId, wanted: SetAttr, caller: Caller) -> Inode:
        """Change attributes; the size included (truncate). Raises FsError EISDIR, EINVAL, EFBIG."""
        inode: Inode = await self.change(
            attributes.plan_set_attributes,
            self.engine,
            ViewNo(node >> INO_BITS),
            Ino(node & INO_MASK),
            wanted,
            self.now(),
        )
        return inode

    async def getxattr(self, node: NodeId, name: bytes) -> bytes:
        """The value of an extended attribute. Raises FsError ENODATA; EOPNOTSUPP, EINVAL: no such name."""
        value = (await self.getattr(node)).xattrs.get(name)
        if value is None:
            attributes.check_xattr_name(name)
            raise FsError(errno.ENODATA)
        return value

    async def listxattr(self, node: NodeId) -> list[bytes]:
        """Names of the extended attributes, sorted."""
        names = sorted((await self.getattr(node)).xattrs)
        return [name for name in names if not name.startswith(attributes.HIDDEN_XATTRS)]

    async def setxattr(self, node: NodeId, name: bytes, value: bytes, flags: int, caller: Caller) -> None:
        """Set an extended attribute. Raises FsError E2BIG, ERANGE, ENOSPC, EEXIST, ENODATA."""
        await self.change(
            attributes.plan_set_xattr,
            self.engine,
            ViewNo(node >> INO_BITS),
            Ino(node & INO_MASK),
            name,
            value,
            flags,
            self.now(),
        )

    async def removexattr(self, node: NodeId, name: bytes, caller: Caller) -> None:
        """Remove an extended attribute. Raises FsError ENODATA."""
        await self.change(
            attributes.plan_remove_xattr,
            self.engine,
            ViewNo(node >> INO_BITS),
            Ino(node & INO_MASK),
            name,
            self.now(),
        )

    # --- content -------------------------------------------------------------------------------------

    async def read(self, node: NodeId, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; b"" at the end. Raises FsError EISDIR, EINVAL, EIO."""
        plan = await self.planned(
            data.plan_read, self.engine, ViewNo(node >> INO_BITS), Ino(node & INO_MASK), offset, size
        )
        return await self.reader.read(plan) if plan else b""

    async def write(self, node: NodeId, offset: int, content: bytes, caller: Caller) -> int:
        """Write all of `content`, at most 1 MiB, at `offset`. Returns its length.

        Raises:
            FsError: EISDIR, EINVAL, EFBIG. OSError: ENOSPC.
        """
        if not content:
            return 0
        if self.log.over_budget:
            await self.persister.wait_for_room()
        record = await self.planned(
            data.plan_write,
            self.engine,
            ViewNo(node >> INO_BITS),
            Ino(node & INO_MASK),
            offset,
            len(content),
            self.now(),
        )
        self.carry_out_write(record, content)
        return len(content)

    async def data_runs(self, node: NodeId) -> list[tuple[int, int]]:
        """(offset, length) of what is not hole, in order."""

        def plan() -> list[tuple[int, int]]:
            inode = self.engine.inode(ViewNo(node >> INO_BITS), Ino(node & INO_MASK))
            runs = extent.data_runs(inode.tree, self.engine.pages)
            return [(run[0][0], run[-1][0] + run[-1][1].length - run[0][0]) for run in runs]

        return await self.planned(plan)

    async def fsync(self, node: NodeId) -> None:
        """Return when everything written so far survives power loss. Raises OSError EIO."""
        await self.wait_durable(Lsn(self.log.end))

    async def statfs(self) -> StatFs:
        """Blocks of the filesystem that holds the store; inode numbers of the store."""
        disk = os.statvfs(self.store_path)
        files = sum(branch.head.files for branch in self.engine.branches.values())
        free = INO_MASK - 0x100 - self.engine.next_ino
        return StatFs(
            f_bsize=4096,
            f_frsize=disk.f_frsize,
            f_blocks=disk.f_blocks,
            f_bfree=disk.f_bfree,
            f_bavail=disk.f_bavail,
            f_files=files + free,
            f_ffree=free,
            f_favail=free,
            f_namemax=NAME_MAX,
        )

    # --- paths ---------------------------------------------------------------------------------------

    async def path_of(self, node: NodeId) -> bytes:
        """A path of the node, relative to the root of its view; b"" for the root.

        O(depth) for a directory; for a file the whole view may be searched. Raises StaleHandle: unlinked.
        """
        return await self.planned(self._path_of, node)

    def _path_of(self, node: NodeId) -> bytes:
        view, ino = ViewNo(node >> INO_BITS), Ino(node & INO_MASK)
        inode = self.engine.inode(view, ino)
        if inode.nlink == 0:
            raise StaleHandle("this file has no name any more")
        names: list[bytes] = []
        if not inode.is_dir():
            parent, name = self._find_name(view, ino)
            names.append(name)
            inode = parent
        while inode.ino != 1:
            parent = self.engine.inode(view, inode.parent)
            names.append(self._name_in(parent, inode.ino))
            inode = parent
        return b"/".join(reversed(names))

    def _name_in(self, parent: Inode, ino: Ino) -> bytes:
        for dentry in directory.entries(parent.tree, self.engine.pages):
            if dentry.ino == ino:
                return dentry.name
        raise StaleHandle("this file has no name any more")

    def _find_name(self, view: ViewNo, ino: Ino) -> tuple[Inode, bytes]:
        waiting = [Ino(1)]
        while waiting:
            parent = self.engine.inode(view, waiting.pop())
            for dentry in directory.entries(parent.tree, self.engine.pages):
                if dentry.ino == ino:
                    return parent, dentry.name
                if dentry.kind == stat.S_IFDIR >> 12:
                    waiting.append(dentry.ino)
        raise StaleHandle("this file has no name any more")

    async def resolve(self, view: ViewNo, path: bytes) -> Entry:
        """The entry at a path relative to the root of a view. Raises FsError ENOENT, ENOTDIR."""
        at = Entry(node_id(view, Ino(1)), await self.getattr(node_id(view, Ino(1))))
        for name in path.split(b"/"):
            if name not in (b"", b"."):
                at = await self.lookup(at.node, name)
        return at
