"""What `mount` is asked for, as it goes from the command line to the daemon's process.

Must not know: how options are written by users (the command line parses them).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Final

DEFAULT_TRANSPORT: Final = "kernel"


@dataclass(slots=True, frozen=True)
class MountOptions:
    """Options of one mount; None stands for the store's or the program's default.

    Attributes:
        branch: Path of the branch to show, as "main/exp"; bytes that are not UTF-8 as surrogates.
        flags: Flags for the kernel's mount, from transport.options.PASSED_ON; of contradicting ones the last
        counts. control_visible: Whether listings of the root show `.helios`.
        nonempty: Mount over a directory that has entries.
        memory_bytes, log_bytes, commit_s: Store-wide; set by the first mount.
        gc: "auto" or "manual": whether the daemon collects garbage unasked.
        retention: Words of the `retention` command for the mounted branch; None leaves its policy as it is.
        cache: "private" or "shared" (the latter on the kernel transport alone).
        transport: "pyfuse3" or "kernel"; "" for the program's choice.
        trusted: The kernel checks no permissions.
        debug: What to log besides; "requests": every request.
        supervised: A death of the process that serves is outlived (kernel transport alone).
        follow: Another process follows what that one does, so that it can go on at once. None: where there is
        enough memory (room.py).
        realtime: The process that serves gets a processor before others do, where the system lets it.
        pm_qos: Cores are kept from halting while requests follow each other closely, where the system lets it.
    """

    branch: str = "main"
    flags: tuple[str, ...] = ()
    control_visible: bool = False
    nonempty: bool = False
    memory_bytes: int | None = None
    log_bytes: int | None = None
    commit_s: float | None = None
    gc: str = "auto"
    retention: tuple[str, ...] | None = None
    cache: str = "private"
    transport: str = ""
    trusted: bool = False
    debug: str = ""
    supervised: bool = True
    follow: bool | None = None
    realtime: bool = True
    pm_qos: bool = True

    @property
    def outlives_its_process(self) -> bool:
        """Whether the mount is to have a supervisor."""
        # With the cache shared a handle is a backing file that its process has opened.
        return self.supervised and (self.transport or DEFAULT_TRANSPORT) == "kernel" and self.cache == "private"

    def to_json(self) -> str:
        """As one word of a command line."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> MountOptions:
        """The inverse. Raises ValueError for anything that `to_json` does not make."""
        found = json.loads(text)
        known = {field.name for field in fields(cls)}
        if not isinstance(found, Mapping) or not known.issuperset(found):
            raise ValueError(f"not mount options: {text}")
        flags = found.get("flags", ())
        retention = found.get("retention")
        words = None if retention is None else tuple(retention)
        return cls(**{**found, "flags": tuple(flags), "retention": words})
