"""Who waits for the host is told from who hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from heliosfs.daemon.silence import waits_for_the_host, work_of
from tests.support.mounts import REPOSITORY, wait_until

LOOP = "while True: pass"


@pytest.fixture
def started() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def python(stack: ExitStack, script: str) -> int:
    process = subprocess.Popen([sys.executable, "-S", "-c", script], cwd=REPOSITORY)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process.pid


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_who_sleeps_or_is_gone_does_not_wait(started: ExitStack) -> None:
    asleep = python(started, "import time; time.sleep(60)")
    wait_until(lambda: state_of(asleep) == "S", "it sleeps")
    assert not waits_for_the_host(asleep)
    assert not waits_for_the_host(2**22 + 1)


def test_work_is_counted_of_who_sleeps(started: ExitStack) -> None:
    asleep = python(started, "import time; time.sleep(60)")
    wait_until(lambda: state_of(asleep) == "S", "it sleeps")
    before = work_of(asleep)
    assert before is not None and before > 0
    assert work_of(asleep) == before
    wait_until(lambda: work_of(python(started, LOOP)) is None, "it runs")
    naps = python(started, "import time\nwhile True: time.sleep(0.001)")
    wait_until(lambda: state_of(naps) == "S", "it sleeps now and then")
    seen = work_of(naps)
    wait_until(lambda: work_of(naps) != seen, "it does something")


def test_who_loops_on_a_processor_does_not_wait(started: ExitStack) -> None:
    loops = python(started, LOOP)
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(loops, {core})
    if os.geteuid() == 0:
        os.sched_setscheduler(loops, os.SCHED_RR, os.sched_param(1))
    wait_until(lambda: not waits_for_the_host(loops), "it has a processor")


def test_who_is_kept_from_a_processor_waits(started: ExitStack) -> None:
    core = min(os.sched_getaffinity(0))
    starved = python(started, LOOP)
    for pid in (starved, python(started, LOOP), python(started, LOOP)):
        os.sched_setaffinity(pid, {core})
    os.sched_setscheduler(starved, os.SCHED_IDLE, os.sched_param(0))
    wait_until(lambda: waits_for_the_host(starved), "it is starved")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees what a thread waits for")
def test_who_waits_in_the_kernel_waits(started: ExitStack, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    waits = python(
        started,
        "from tests.support.fake_worker import wait_in_the_kernel; from pathlib import Path\n"
        f"wait_in_the_kernel(Path({os.fspath(tmp_path / 'gate')!r}))",
    )
    wait_until(lambda: state_of(waits) == "D", "it waits in the kernel")
    assert waits_for_the_host(waits)
    os.close(os.open(tmp_path / "gate", os.O_WRONLY))


@pytest.mark.parametrize(
    ("stacks", "waits"),
    [
        (["folio_wait_bit_common\njbd2_log_wait_commit\n"], True),
        (["rwsem_down_write_slowpath\nfuse_reverse_inval_entry\nfuse_dev_do_write\n"], False),
        (["jbd2_log_wait_commit\n", "fuse_reverse_inval_inode\n"], False),
        ([""], False),
    ],
)
def test_who_waits_in_fuse_hangs(tmp_path: Path, stacks: list[str], waits: bool) -> None:
    for number, stack in enumerate(stacks):
        thread = tmp_path / f"7/task/{7 + number}"
        thread.mkdir(parents=True)
        (thread / "stat").write_text("7 (a) D) D 1 2")
        (thread / "schedstat").write_text("1000 1000 3\n")
        (thread / "stack").write_text(stack)
    assert waits_for_the_host(7, tmp_path) is waits
