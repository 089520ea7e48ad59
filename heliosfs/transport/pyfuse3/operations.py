"""All handlers of one session, put together."""

from __future__ import annotations

from heliosfs.transport.pyfuse3.attributes import AttributeHandlers
from heliosfs.transport.pyfuse3.data import DataHandlers
from heliosfs.transport.pyfuse3.listings import ListingHandlers
from heliosfs.transport.pyfuse3.names import NameHandlers
from heliosfs.transport.pyfuse3.xattrs import XattrHandlers


class HeliosOperations(AttributeHandlers, NameHandlers, ListingHandlers, DataHandlers, XattrHandlers):
    """What pyfuse3 calls. ACCESS does not come (default_permissions), FLUSH only once."""
