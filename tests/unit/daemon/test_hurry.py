"""Who hurries, who does not, and who is reaped."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.mounts import REPOSITORY

SCRIPT = """
import json, os, threading
from heliosfs.daemon.priority import calm, hurry, unhurried

def policies():
    return [os.sched_getscheduler(int(task)) for task in sorted(os.listdir("/proc/self/task"), key=int)]

said, over = {}, threading.Event()
hurry(0)
threading.Thread(target=over.wait).start()
said["hurried"] = policies()
calm()
said["calm"] = policies()
over.set()
hurry(0, alone=True)
said["alone"] = os.sched_getscheduler(0)
if not os.fork():
    os._exit(os.sched_getscheduler(0))
said["child"] = os.waitstatus_to_exitcode(os.wait()[1])
with unhurried():
    said["inside"] = os.sched_getscheduler(0)
said["outside"] = os.sched_getscheduler(0)
os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
if not os.fork():
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    hurry(0)
    os._exit(os.sched_getscheduler(0))
said["modest"] = os.waitstatus_to_exitcode(os.wait()[1])
print(json.dumps(said))
"""


REAPING = """
import os, subprocess, sys
from heliosfs.daemon.staff import reap

others = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.DEVNULL)
os.waitid(os.P_PID, others.pid, os.WEXITED | os.WNOWAIT)
reap({others.pid})
assert others.wait() == 0
child = os.fork()
if not child:
    os._exit(0)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
reap(set())
assert not os.path.exists(f"/proc/{child}")
"""

FORBIDDEN = """
import os
set_ = os.sched_setscheduler

def refuse(pid, policy, param):
    if policy & os.SCHED_RR and policy != os.SCHED_BATCH:
        raise PermissionError
    set_(pid, policy, param)

os.sched_setscheduler = refuse
"""


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


@pytest.mark.parametrize("allowed", [True, False])
def test_who_hurries_does_so_with_its_threads_until_it_is_calm(allowed: bool) -> None:
    allowed = allowed and os.geteuid() == 0
    hurried = os.SCHED_RR if allowed else os.SCHED_OTHER
    alone = hurried | os.SCHED_RESET_ON_FORK if allowed else os.SCHED_OTHER
    found = json.loads(run(SCRIPT if allowed else FORBIDDEN + SCRIPT))
    assert found["hurried"] == [hurried, hurried]
    assert found["calm"] == [os.SCHED_OTHER, os.SCHED_OTHER]
    assert (found["alone"], found["child"]) == (alone, os.SCHED_OTHER)
    assert (found["inside"], found["outside"]) == (os.SCHED_OTHER, alone)
    assert found["modest"] == hurried


def test_the_dead_are_reaped_but_for_those_that_somebody_waits_for() -> None:
    run(REAPING)
