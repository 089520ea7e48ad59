"""Mount options as users write them -> what is handed to libfuse.

`default_permissions` is on unless the mount is trusted: the kernel checks modes, the core does not. The source
that findmnt shows is the store, the type fuse.heliosfs. Must not know: options that are the store's (memory=,
log=, ...).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

SUBTYPE: Final = "heliosfs"
PASSED_ON: Final = frozenset(
    {
        "allow_other",
        "async",
        "auto_unmount",
        "dev",
        "dirsync",
        "exec",
        "noatime",
        "nodev",
        "nodiratime",
        "noexec",
        "nosuid",
        "ro",
        "rw",
        "suid",
        "sync",
    }
)
"""Flags that libfuse and fusermount3 take as they are."""

_ROOT_ONLY: Final = frozenset({"suid", "dev"})


def fuse_options(store: Path, flags: Iterable[str], *, privileged: bool, trusted: bool = False) -> set[str]:
    """The options of one mount.

    Args:
        store: Shown as the source. What is not ASCII, and what libfuse's splitting of options would trip over, is
            shown in percent encoding.
        flags: From PASSED_ON, in the order given; of two that contradict each other the last one counts.
        privileged: Mounting as root, not through fusermount3: set-id programs and device nodes then work unless
            nosuid or nodev is given, as mount(8) has it for every other filesystem.
        trusted: The kernel is not to check permissions: for a mount where one user, or root, works alone.

    Raises:
        ValueError: A flag that is not in PASSED_ON; the message names it.
    """
    chosen = {"suid": True, "dev": True} if privileged else {}
    for flag in flags:
        if flag not in PASSED_ON:
            raise ValueError(flag)
        if flag in ("ro", "rw"):
            chosen["ro"] = flag == "ro"
        elif flag.startswith("no") and flag not in ("noatime", "nodiratime"):
            chosen[flag[2:]] = False
        else:
            chosen[flag] = True
    options = {f"fsname={_source(store)}", f"subtype={SUBTYPE}"}
    if not trusted:
        options.add("default_permissions")
    for flag, on in chosen.items():
        if on and (privileged or flag not in _ROOT_ONLY):
            options.add(flag)
        elif not on and flag != "ro":
            options.add(f"no{flag}")
    return options


def _source(store: Path) -> str:
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b",\\%" else f"%{byte:02x}" for byte in os.fsencode(store)
    )
