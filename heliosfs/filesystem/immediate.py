"""File operations that never suspend: a transport answers a request with one call, without a coroutine.

Each either does all of its work, or raises NeedPages (pages are not in memory) or NeedRoom (the log is full)
before its first change; `settled` of the door provides and calls again. Those named `promise_` leave the change to
be applied after the reply; each has a `try_` that does both. Stateless: no handles, no lookup counts.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from heliosfs.core import acl, attributes, data, directory, extent, namespace, rename
from heliosfs.core.attributes import SetAttr
from heliosfs.core.directory import NAME_MAX
from heliosfs.core.errors import FsError, NeedPages
from heliosfs.core.extent import Piece
from heliosfs.core.ids import INO_BITS, INO_MASK, Ino, NodeId, PageId, ViewNo
from heliosfs.core.inode import Inode
from heliosfs.core.oplog import Make
from heliosfs.filesystem.door import Door, NeedRoom
from heliosfs.filesystem.types import TYPES, Caller, Entry, StatFs
from heliosfs.storage.reading import Reader


class Immediate(Door):
    """Reads and changes of files, directories and links, at once.

    Every operation may raise NeedPages, NeedRoom (where it changes something), FsError ESTALE (the file, branch
    or snapshot is gone), EIO (Damaged), EROFS in a snapshot; OSError ENOSPC or EIO from the log.
    """

    reader: Reader
    store_path: Path

    # --- looking -------------------------------------------------------------------------------------

    def try_find(self, parent: NodeId, name: bytes) -> Entry | None:
        """The inode of a name, None if there is no such name. Raises FsError ENOTDIR, ENAMETOOLONG. 2 us."""
        view = ViewNo(parent >> INO_BITS)
        inode = self.engine.inode(view, Ino(parent & INO_MASK))
        if inode.mode & 0o170000 != stat.S_IFDIR:
            raise FsError(errno.ENOTDIR)
        dentry = directory.find(inode.tree, name, self.engine.pages)
        if dentry is None:
            if len(name) > NAME_MAX:
                raise FsError(errno.ENAMETOOLONG)
            return None
        return self.entry(view, self.engine.inode(view, dentry.ino))

    def entry(self, view: ViewNo, inode: Inode) -> Entry:
        """The entry of an inode of a view, with its generation."""
        branch = self.engine.branches.get(view)
        generation = 0
        if branch is not None and branch.generations:
            generation = branch.generations.get(inode.ino, 0)
        return Entry(NodeId(view << INO_BITS | inode.ino), inode, generation)

    def try_getattr(self, node: NodeId) -> Inode:
        """The attributes. 0.3 us."""
        return self.engine.inode(ViewNo(node >> INO_BITS), Ino(node & INO_MASK))

    def try_readlink(self, node: NodeId) -> bytes:
        """The target of a symbolic link. Raises FsError EINVAL."""
        inode = self.try_getattr(node)
        if not stat.S_ISLNK(inode.mode):
            raise FsError(errno.EINVAL)
        return inode.target

    def try_readdir(
        self, node: NodeId, cookie: int, limit: int, known: Callable[[NodeId], bool] | None = None
    ) -> list[tuple[bytes, Entry, int]]:
        """Up to about `limit` entries behind `cookie` (0: the start): (name, entry, cookie to go on from).

        Without `.` and `..`; [] at the end. Names with one cookie come together. Raises FsError ENOTDIR.

        Args:
            known: Says of which nodes the asker wants no more than the type: their entries are not `cacheable`,
                and the attributes are a mode. They are not looked up, which is most of a listing's work.
        """
        view = ViewNo(node >> INO_BITS)
        inode = self.engine.inode(view, Ino(node & INO_MASK))
        if not inode.is_dir():
            raise FsError(errno.ENOTDIR)
        found: list[tuple[bytes, Entry, int]] = []
        # Entries come by the hash of their names, so their inodes lie everywhere: their pages are asked for
        # together, a hundred of them in one load, not one after the other.
        missing: set[PageId] = set()
        count = 0
        for key, bucket in directory.after(inode.tree, cookie, self.engine.pages):
            for name, ino, kind in bucket:
                count += 1
                if known is not None and known(listed := NodeId(view << INO_BITS | ino)):
                    found.append((name, Entry(listed, TYPES[kind], 0, False), key))
                    continue
                try:
                    found.append((name, self.entry(view, self.engine.inode(view, ino)), key))
                except NeedPages as need:
                    missing.update(need.ids)
            if count >= limit:
                break
        if missing:
            raise NeedPages(tuple(missing))
        return found

    # --- names ---------------------------------------------------------------------------------------

    def promise_make(
        self,
        parent: NodeId,
        name: bytes,
        mode: int,
        caller: Caller,
        umask: int = 0,
        rdev: int = 0,
        target: bytes = b"",
    ) -> Make:
        """A new file, directory, link or node; see `Door.promise`. `mode` has the type.

        Its attributes are those of the record, unless it is applied already (nothing is owed).

        Args:
            umask: Taken off the mode, unless an access list of the directory stands in for it. Source: acl(5).

        Raises:
            FsError: EEXIST, ENOENT, ENOTDIR, ENAMETOOLONG, EINVAL, EMLINK.
        """
        if self.crowded:
            raise NeedRoom
        engine = self.engine
        view, ino = ViewNo(parent >> INO_BITS), Ino(parent & INO_MASK)
        record = namespace.plan_make(
            engine, view, ino, name, mode, caller.uid, caller.gid, self.now(), umask=umask, rdev=rdev, target=target
        )
        self.promise(record)
        if self.owed is not None and engine.inode(view, ino).xattrs:
            self.keep()  # It may inherit from them.
        return record

    def try_make(
        self,
        parent: NodeId,
        name: bytes,
        mode: int,
        caller: Caller,
        umask: int = 0,
        rdev: int = 0,
        target: bytes = b"",
    ) -> Entry:
        """As `promise_make`, applied."""
        record = self.promise_make(parent, name, mode, caller, umask, rdev, target)
        self.keep()
        return self.entry(record.view, self.engine.inode(record.view, record.ino))

    def try_link(self, node: NodeId, new_parent: NodeId, new_name: bytes) -> Entry:
        """A further name. Raises FsError EPERM (directory), EXDEV (another view), EEXIST, EMLINK, ENOENT."""
        view = one_view(node, new_parent)
        inode = self.try_change(
            namespace.plan_link,
            self.engine,
            view,
            Ino(node & INO_MASK),
            Ino(new_parent & INO_MASK),
            new_name,
            self.now(),
        )
        return self.entry(view, inode)

    def promise_unlink(self, parent: NodeId, name: bytes) -> None:
        """Remove a name of anything but a directory; see `Door.promise`. Raises FsError EISDIR, ENOENT, ENOTDIR."""
        view, ino = ViewNo(parent >> INO_BITS), Ino(parent & INO_MASK)
        self.promise_release(namespace.plan_unlink(self.engine, view, ino, name, self.now()))

    def try_unlink(self, parent: NodeId, name: bytes) -> None:
        """As `promise_unlink`, applied."""
        self.promise_unlink(parent, name)
        self.keep()

    def promise_rmdir(self, parent: NodeId, name: bytes) -> None:
        """Remove an empty directory; see `Door.promise`. Raises FsError ENOTEMPTY, ENOTDIR, ENOENT."""
        view, ino = ViewNo(parent >> INO_BITS), Ino(parent & INO_MASK)
        self.promise_release(namespace.plan_remove_directory(self.engine, view, ino, name, self.now()))

    def try_rmdir(self, parent: NodeId, name: bytes) -> None:
        """As `promise_rmdir`, applied."""
        self.promise_rmdir(parent, name)
        self.keep()

    def promise_rename(self, parent: NodeId, name: bytes, new_parent: NodeId, new_name: bytes, flags: int) -> None:
        """rename(2), with RENAME_NOREPLACE, _EXCHANGE, _WHITEOUT; see `Door.promise`.

        Raises FsError as there; EXDEV between views.
        """
        view = one_view(parent, new_parent)
        if self.crowded:
            raise NeedRoom
        ino, new_ino = Ino(parent & INO_MASK), Ino(new_parent & INO_MASK)
        record = rename.plan_rename(self.engine, view, ino, name, new_ino, new_name, flags, self.now())
        if record is not None:
            self.promise(record)

    def try_rename(self, parent: NodeId, name: bytes, new_parent: NodeId, new_name: bytes, flags: int) -> None:
        """As `promise_rename`, applied."""
        self.promise_rename(parent, name, new_parent, new_name, flags)
        self.keep()

    # --- attributes ----------------------------------------------------------------------------------

    def try_setattr(self, node: NodeId, wanted: SetAttr) -> Inode:
        """Change attributes; the size included (truncate). Raises FsError EISDIR, EINVAL, EFBIG."""
        # A truncation frees space. One that lengthens a file is let through, too: its record is small.
        change = self.try_change if wanted.size is None else self.try_release
        inode: Inode = change(
            attributes.plan_set_attributes,
            self.engine,
            ViewNo(node >> INO_BITS),
            Ino(node & INO_MASK),
            wanted,
            self.now(),
        )
        return inode

    def try_getxattr(self, node: NodeId, name: bytes) -> bytes | None:
        """The value of an attribute, None if there is none. Raises FsError EOPNOTSUPP, EINVAL: no such name."""
        value = self.try_getattr(node).xattrs.get(name)
        if value is None:
            attributes.check_xattr_name(name)
        return value

    def try_listxattr(self, node: NodeId, *, trusted: bool = True) -> list[bytes]:
        """Names of the extended attributes, sorted.

        Args:
            trusted: Whether he who asks may see trusted.*, which takes CAP_SYS_ADMIN. Source: xattr(7).
        """
        hidden = attributes.HIDDEN_XATTRS if trusted else (attributes.HIDDEN_XATTRS, b"trusted.")
        return [name for name in sorted(self.try_getattr(node).xattrs) if not name.startswith(hidden)]

    def try_setxattr(
        self, node: NodeId, name: bytes, value: bytes, flags: int, *, kill_set_gid: bool = False
    ) -> None:
        """Set an extended attribute. Raises FsError E2BIG, ERANGE, ENOSPC, EEXIST, ENODATA.

        Args:
            kill_set_gid: An access list set by somebody who is neither in the file's group nor root takes
                the set-group-ID bit along. Source: chmod(2).
        """
        view, ino = ViewNo(node >> INO_BITS), Ino(node & INO_MASK)
        record = attributes.plan_set_xattr(self.engine, view, ino, name, value, flags, self.now())
        if self.crowded:
            raise NeedRoom
        if kill_set_gid:
            mode = self.engine.inode(view, ino).mode
            if mode & stat.S_ISGID:
                self.try_setattr(node, SetAttr(mode=mode & ~stat.S_ISGID))
                record.now_ns = self.now()
        self.carry_out(record)

    def try_removexattr(self, node: NodeId, name: bytes) -> None:
        """Remove an extended attribute. Raises FsError ENODATA; an access list that is absent is gone already."""
        if name in acl.LISTS and name not in self.try_getattr(node).xattrs:
            self.engine.writable(ViewNo(node >> INO_BITS))
            return
        self.try_release(
            attributes.plan_remove_xattr,
            self.engine,
            ViewNo(node >> INO_BITS),
            Ino(node & INO_MASK),
            name,
            self.now(),
        )

    # --- content -------------------------------------------------------------------------------------

    def try_plan_read(self, node: NodeId, offset: int, size: int) -> list[Piece]:
        """Where up to `size` bytes from `offset` are; [] at the end. Raises FsError EISDIR, EINVAL."""
        return data.plan_read(self.engine, ViewNo(node >> INO_BITS), Ino(node & INO_MASK), offset, size)

    def promise_write(self, node: NodeId, offset: int, content: bytes | memoryview, *, kill_set_id: int = 0) -> int:
        """Write all of `content`, at most 1 MiB, at `offset`; see `Door.promise`. Returns its length.

        `content` is not kept.

        Args:
            kill_set_id: As of SetAttr: the writer has no CAP_FSETID, and the kernel leaves it to us to take the
                file's set-id bits away.

        Raises:
            FsError: EISDIR, EINVAL, EFBIG. OSError: ENOSPC.
        """
        length = len(content)
        if not length:
            return 0
        if self.crowded_by(length):
            raise NeedRoom(length)
        record = data.plan_write(
            self.engine, ViewNo(node >> INO_BITS), Ino(node & INO_MASK), offset, length, self.now()
        )
        if kill_set_id and self.took_set_id(node, kill_set_id):
            record.now_ns = self.now()
        self.promise(record, content)
        return length

    def try_write(self, node: NodeId, offset: int, content: bytes | memoryview, *, kill_set_id: int = 0) -> int:
        """As `promise_write`, applied."""
        length = self.promise_write(node, offset, content, kill_set_id=kill_set_id)
        self.keep()
        return length

    def took_set_id(self, node: NodeId, kill_set_id: int) -> bool:
        """Take a file's set-id bits away if it has any. To be called when the change of content is planned."""
        if not self.try_getattr(node).mode & 0o6000:
            return False
        self.try_setattr(node, SetAttr(kill_set_id=kill_set_id))
        return True

    def try_data_runs(self, node: NodeId) -> list[tuple[int, int]]:
        """(offset, length) of what is not hole, in order."""
        inode = self.try_getattr(node)
        runs = extent.data_runs(inode.tree, self.engine.pages)
        return [(run[0][0], run[-1][0] + run[-1][1].length - run[0][0]) for run in runs]

    def try_statfs(self) -> StatFs:
        """Blocks of the filesystem that holds the store; inode numbers of the store.

        Free is what can be written: without the reserve, and without what the log needs to become chunks.
        """
        disk = os.statvfs(self.store_path)
        taken = self.space.taken(self.persister.unstored) // disk.f_frsize
        files = sum(branch.head.files for branch in self.engine.branches.values())
        free = INO_MASK - 0x100 - self.engine.next_ino
        return StatFs(
            f_bsize=4096,
            f_frsize=disk.f_frsize,
            f_blocks=disk.f_blocks,
            f_bfree=max(disk.f_bfree - taken, 0),
            f_bavail=max(disk.f_bavail - taken, 0),
            f_files=files + free,
            f_ffree=free,
            f_favail=free,
            f_namemax=NAME_MAX,
        )

    def forget(self, node: NodeId) -> None:
        """The kernel knows this node no longer: an unlinked inode is freed."""
        branch = self.engine.branches.get(ViewNo(node >> INO_BITS))
        if branch is not None and branch.orphans:
            branch.orphans.pop(Ino(node & INO_MASK), None)

    def forget_all(self) -> None:
        """No kernel knows any node any more: all unlinked inodes are freed. Where lookups were not counted."""
        for branch in self.engine.branches.values():
            branch.orphans.clear()


def one_view(node: NodeId, other: NodeId) -> ViewNo:
    """The view of both. Raises FsError EXDEV: they are of different views."""
    view = ViewNo(node >> INO_BITS)
    if view != other >> INO_BITS:
        raise FsError(errno.EXDEV)
    return view
