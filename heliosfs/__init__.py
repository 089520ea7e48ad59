"""HeliosFS: a FUSE filesystem that gives sandboxes versioned state.

This module holds the version alone; importing it must stay free (the command line starts with it).
"""

from __future__ import annotations

__version__ = "0.1.0"
