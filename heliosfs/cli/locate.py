"""Finds the branch that a path lies in, by walking up to the directory that has a `.helios`.

Invariants: only system calls on the mount itself, and a look at the table of mounts where it answers EIO; symbolic
links in the given path are followed once (its real path), none after that. Must not know: the daemon.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from heliosfs.cli.exits import CliError
from heliosfs.cli.output import shown

CONTROL = b".helios"
_ID = b"user.helios.id"


@dataclass(slots=True, frozen=True)
class Place:
    """Where a path lies.

    Attributes:
        root: Absolute path of the branch's root directory (as this process sees it).
        inside: The path below it, b"" for the root itself.
    """

    root: bytes
    inside: bytes

    @property
    def ctl(self) -> bytes:
        """Path of the branch's `ctl`."""
        return self.root + b"/.helios/ctl" if self.root != b"/" else b"/.helios/ctl"


def _has_control(directory: bytes) -> bool:
    """Whether a live branch has its root here: `.helios/ctl` exists and the directory answers as ours."""
    try:
        os.lstat(os.path.join(directory, CONTROL, b"ctl"))
    except PermissionError as error:
        # Control directories are 0700: a branch of somebody else answers EACCES below .helios only.
        if _is_ours(directory):
            raise CliError(
                f"{shown(directory)}: the branch belongs to somebody else",
                "ask its owner, or root",
                errno_name="EACCES",
            ) from error
        return False
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise CliError(
                f"{shown(directory)}: its daemon is gone", "heliosfs mount it again, or heliosfs umount it"
            ) from error
        if error.errno == errno.EIO:
            _check_given_up(directory, error)
        return False
    return _is_ours(directory)


def _check_given_up(directory: bytes, error: OSError) -> None:
    """Raise CliError where a mount of ours answers so at its root: as a rule its daemon has given up."""
    from heliosfs.daemon.mountpoint import store_of
    from heliosfs.transport.mounts import mount_at

    mount = mount_at(Path(os.fsdecode(directory)))
    if mount is not None:
        store = shown(store_of(mount))
        raise CliError(
            f"{shown(directory)}: {error.strerror}",
            f"if its daemon has given up ({store}/daemon.log): heliosfs umount it, then heliosfs fsck {store}",
            errno_name="EIO",
        ) from error


def _is_ours(directory: bytes) -> bool:
    try:
        os.getxattr(directory, _ID, follow_symlinks=False)
    except OSError:
        return False
    return True


def locate(path: bytes) -> Place:
    """The branch that `path` lies in; the path itself need not exist (a restore may bring it back).

    Args:
        path: Absolute.

    Raises:
        CliError: No branch there, or it is another user's (EACCES), or its daemon is gone.

    Cost: two system calls for each directory on the way up.
    """
    path = os.path.realpath(path)
    directory, inside = path, b""
    while True:
        if _has_control(directory):
            return Place(directory, inside)
        if directory == b"/":
            raise CliError(
                f"{shown(path)} is not in a HeliosFS branch",
                "cd into one, use -C PATH, or --store STORE --branch main",
            )
        directory, name = os.path.split(directory)
        inside = os.path.join(name, inside) if inside else name


def relative_to(place: Place, base: bytes, path: bytes) -> bytes:
    """A path that a user gave, as one relative to the branch's root, without following its last part.

    Args:
        place: What `locate(base)` said.
        base: Absolute directory that a relative path starts from.
        path: As given.

    Returns:
        Relative, normal form; b"." for the root itself.

    Raises:
        CliError: It leads out of the branch.
    """
    full = os.path.normpath(os.path.join(base, path))
    parent, name = os.path.split(full)
    full = os.path.join(os.path.realpath(parent), name)
    prefix = place.root.rstrip(b"/") + b"/"
    if full == place.root:
        return b"."
    if not full.startswith(prefix):
        raise CliError(f"{shown(path)} lies outside the branch at {shown(place.root)}", code=2, errno_name="EINVAL")
    return full[len(prefix) :]
