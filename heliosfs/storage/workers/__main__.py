"""`python -m heliosfs.storage.workers`: a worker process, started by the pool alone."""

from __future__ import annotations

import sys

from heliosfs.storage.workers.process import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
