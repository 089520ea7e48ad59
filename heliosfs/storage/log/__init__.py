"""The log: every change, appended before its reply. docs/format/log.md."""

from heliosfs.storage.log.commit import GroupCommit
from heliosfs.storage.log.frame import Place
from heliosfs.storage.log.log import Log
from heliosfs.storage.log.recovery import Recovery

__all__ = ["GroupCommit", "Log", "Place", "Recovery"]
