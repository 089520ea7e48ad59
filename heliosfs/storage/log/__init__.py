"""The log: every change, appended before its reply. docs/format/log.md."""

from heliosfs.storage.log.commit import GroupCommit
from heliosfs.storage.log.following import FollowLost, LogFollower
from heliosfs.storage.log.frame import Place
from heliosfs.storage.log.log import Log
from heliosfs.storage.log.recovery import Recovery
from heliosfs.storage.log.seen import Seen, SeenOtherwise

__all__ = ["FollowLost", "GroupCommit", "Log", "LogFollower", "Place", "Recovery", "Seen", "SeenOtherwise"]
