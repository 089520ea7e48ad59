"""Who follows, as the supervisor holds them."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time

import pytest

from heliosfs.daemon import words
from heliosfs.daemon.followers import Followers
from heliosfs.daemon.holdings import Holdings
from heliosfs.daemon.staff import Worker


def test_nobody_waits_for_the_end_of_one_that_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies when it gets a processor; on a loaded host, and with a big store, that takes a while."""
    poll = select.poll()
    followers = Followers(poll, {}, Holdings(), print)
    monkeypatch.setattr(Worker, "signal", lambda worker, number: None)
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as dying:
        for name in ("level", "coming"):
            ours, theirs = words.pair()
            poll.register(ours)
            one = Worker(ours, time.monotonic(), dying.pid, os.pidfd_open(dying.pid), level=name == "level")
            setattr(followers, name, one)
            theirs.close()
        former, taken = followers.level, followers.take()
        assert taken is not None and not taken.level
        assert former is not None and (former.pidfd, former.line.fileno()) == (-1, -1)
        followers.end()
        taken.leave(poll)
        assert dying.poll() is None
