"""Exit codes and the one exception that ends a verb: what went wrong, what to do, how to exit.

Invariants: every code that this program gives is in `Exit`, and every errno that a reply can carry
maps to one of them (`exit_of`). Must not know: click, the daemon, storage.
"""

from __future__ import annotations

import enum
import errno


class Exit(enum.IntEnum):
    """Exit codes of `heliosfs`; docs/cli.md explains them to users."""

    OK = 0
    ERROR = 1
    USAGE = 2
    CONFLICT = 3
    NO_STORE = 10
    LOCKED = 11
    DAMAGED = 12
    NEWER = 13
    NO_FUSE = 14
    UNSTORED = 15


_BY_ERRNO = {
    "EINVAL": Exit.USAGE,
    "ENAMETOOLONG": Exit.USAGE,
    "EEXIST": Exit.CONFLICT,
    "EBUSY": Exit.CONFLICT,
    "ENOTEMPTY": Exit.CONFLICT,
    "ESTALE": Exit.CONFLICT,
    "EIO": Exit.DAMAGED,
}


def exit_of(errno_name: str | None) -> Exit:
    """The exit code for an errno by name ("EEXIST"); ERROR for those without a row. No error. O(1)."""
    return _BY_ERRNO.get(errno_name or "", Exit.ERROR)


class CliError(Exception):
    """Ends a verb with one line on stderr and an exit code; nothing else is printed.

    Attributes:
        what: What went wrong, one line, no full stop.
        remedy: What the user can do about it; "" if there is nothing to say.
        code: The exit code.
        errno_name: "EEXIST" and the like for the JSON object, or None.
        extra: Further keys of the JSON object.
    """

    def __init__(
        self,
        what: str,
        remedy: str = "",
        code: int = Exit.ERROR,
        *,
        errno_name: str | None = None,
        extra: dict[str, object] | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.code = code
        self.errno_name = errno_name
        self.extra = extra or {}

    @classmethod
    def from_os(cls, error: OSError, remedy: str = "") -> CliError:
        """An OSError of a system call that the command line made itself."""
        name = errno.errorcode.get(error.errno or 0)
        where = f"{error.filename}: " if error.filename else ""
        if isinstance(error.filename, bytes):
            where = f"{error.filename.decode('utf-8', 'backslashreplace')}: "
        code = exit_of(name) if name in ("EEXIST", "EBUSY", "ENOTEMPTY", "ESTALE") else Exit.ERROR
        return cls(f"{where}{error.strerror or error}", remedy, code, errno_name=name)

    def line(self) -> str:
        """The one line for stderr, without its line end."""
        tail = f"; {self.remedy}" if self.remedy else ""
        return f"heliosfs: {self.what}{tail}".replace("\n", " ")
