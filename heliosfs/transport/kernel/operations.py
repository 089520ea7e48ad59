"""All handlers of one session, put together: each is called as its operation, in small letters."""

from __future__ import annotations

from heliosfs.transport.kernel.attributes import AttributeHandlers
from heliosfs.transport.kernel.data import DataHandlers
from heliosfs.transport.kernel.handlers import Answer, Header
from heliosfs.transport.kernel.ioctls import IoctlHandlers
from heliosfs.transport.kernel.listings import ListingHandlers
from heliosfs.transport.kernel.ranges import RangeHandlers
from heliosfs.transport.kernel.xattrs import XattrHandlers


class HeliosHandlers(AttributeHandlers, RangeHandlers, ListingHandlers, IoctlHandlers, XattrHandlers):
    """What the pump calls. What is missing here is answered with ENOSYS, which the kernel remembers.

    INTERRUPT has its own place (interrupts.py).
    """

    releasedir = DataHandlers.release
    fsyncdir = DataHandlers.fsync

    def destroy(self, head: Header, view: memoryview, end: int) -> Answer:
        """The last request of a connection that asks for a goodbye."""
        return 0
