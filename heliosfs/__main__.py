"""`python -m heliosfs` is the command line."""

from __future__ import annotations

import sys

from heliosfs.cli.main import main

sys.exit(main())
