"""What every test may ask for: a mounted store, another process, dice. A leaked mount fails the run.

The directory of a run is made by the first pytest process and handed to xdist's workers in the environment;
so is the seed. A guard process frees whatever hangs (tests/support/guard.py).
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.support import guard as guard_process
from tests.support.mounts import (
    RUN_DIRECTORY,
    TRANSPORTS,
    Guard,
    MountedStore,
    Mounts,
    connection_of,
    leaked,
    new_run_directory,
    shell,
)
from tests.support.otherprocess import OtherProcess

SEED = "HELIOSFS_TEST_SEED"
_MARGIN_S = 20.0
"""How long before pytest's own time limit, which ends the process, the guard frees mounts that hang."""

_guards: list[Guard] = []


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    """Make the run's directory and seed, unless we are a worker and have them."""
    os.umask(0o022)
    if not _is_worker(config):
        os.environ[RUN_DIRECTORY] = os.fspath(new_run_directory())
        os.environ.setdefault(SEED, str(random.SystemRandom().randrange(1 << 32)))


def pytest_report_header() -> str:
    """The seed, so that a failure can be replayed."""
    return f"{SEED}={os.environ[SEED]}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Tell the guard when a test's time is up."""
    if not _guards:
        return (yield)
    marker = item.get_closest_marker("timeout")
    asked = item.config.getoption("timeout") or item.config.getini("timeout") or 120
    limit_s = float(marker.args[0] if marker and marker.args else asked)
    _guards[0].say(f"begin {max(limit_s - _MARGIN_S, limit_s / 2)}")
    try:
        return (yield)
    finally:
        _guards[0].say("end")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the daemon said beside a failure."""
    report = yield
    if report.failed and report.when == "call":
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, MountedStore):
                report.sections.append(("daemon.log", value.said()[-5000:]))
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the guard; in the first process, look for mounts that were left behind."""
    for guard in _guards:
        guard.close()
    _guards.clear()
    if _is_worker(session.config):
        return
    directory = Path(os.environ.pop(RUN_DIRECTORY))
    basetemp = Path(session.config._tmp_path_factory.getbasetemp())  # type: ignore[attr-defined]
    left = leaked(directory, basetemp)
    for mountpoint in reversed(left):
        _free(mountpoint)
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\nleaked mounts: {', '.join(map(str, left))}")
    shutil.rmtree(directory, ignore_errors=True)


def _free(mountpoint: Path) -> None:
    try:
        connection = connection_of(mountpoint)
    except AssertionError:
        return
    guard_process.free({os.fspath(mountpoint): connection})


@pytest.fixture(scope="session")
def guard() -> Guard:
    """The guard of this worker."""
    if not _guards:
        _guards.append(Guard())
    return _guards[0]


@pytest.fixture(scope="session")
def local(guard: Guard) -> Path:
    """A directory of this worker on a local filesystem, which every user can pass."""
    directory = Path(tempfile.mkdtemp(prefix="w", dir=os.environ[RUN_DIRECTORY]))
    directory.chmod(0o755)
    return directory


@pytest.fixture(scope="session")
def mounts(local: Path, guard: Guard) -> Mounts:
    """Makes mounted stores."""
    return Mounts(local, guard)


@pytest.fixture(scope="module", params=sorted(TRANSPORTS))
def transport(request: pytest.FixtureRequest) -> str:
    """Every mounted test runs over each transport."""
    return str(request.param)


@pytest.fixture(scope="module")
def shared(mounts: Mounts, transport: str) -> Iterator[MountedStore]:
    """A mount for all tests of a module: each works in a branch of its own, see `branch`."""
    with mounts.mounted(transport) as mounted:
        yield mounted


@pytest.fixture
def fresh(mounts: Mounts, transport: str) -> Iterator[MountedStore]:
    """A mount of a new store for one test."""
    with mounts.mounted(transport) as mounted:
        yield mounted


@pytest.fixture
def branch(shared: MountedStore, request: pytest.FixtureRequest) -> Path:
    """The root of a new, empty branch of the module's mount."""
    count = request.node.path.name, request.node.name
    name = "t%08x" % (hash(count) & 0xFFFFFFFF)
    directory = shared.point / ".helios/branches" / name
    directory.mkdir()
    return directory


@pytest.fixture
def scratch(local: Path) -> Iterator[Path]:
    """An empty directory on a local filesystem."""
    directory = Path(tempfile.mkdtemp(prefix="s", dir=local))
    directory.chmod(0o755)
    yield directory
    shell("chmod -R u+rwx . 2>/dev/null || :", directory)
    shutil.rmtree(directory)


@pytest.fixture
def other() -> Iterator[Callable[..., OtherProcess]]:
    """Starts other processes: `other(uid=0, cwd="/")`; all are ended with the test."""
    started: list[OtherProcess] = []

    def start(*, uid: int = 0, cwd: Path | str = "/") -> OtherProcess:
        started.append(OtherProcess(uid=uid, cwd=cwd))
        return started[-1]

    yield start
    for process in started:
        process.close()


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that the run's seed and the test's name determine."""
    return random.Random(f"{os.environ[SEED]} {request.node.nodeid}")
