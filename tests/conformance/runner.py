"""Runs a group's cases in a directory, each in a child: `python -m tests.conformance.runner GROUP DIR UID`.

Prints one JSON object: case -> its trace. A child that dies or takes too long has a trace that says so.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import select
import signal
import sys
import time
import traceback

from tests.conformance import cases
from tests.conformance.calls import CASES, Calls, Registered

LIMIT_S = 30
OF_OUR_OWN_SESSION = frozenset(("allocation", "copies", "holes", "unnamed"))
"""Groups of calls that the kernel transport has and pyfuse3 has not."""


def load_all() -> list[Registered]:
    """Import every module of cases; all that they have registered."""
    for module in pkgutil.iter_modules(cases.__path__):
        importlib.import_module(f"{cases.__name__}.{module.name}")
    return CASES


def run_case(found: Registered, directory: bytes, uid: int) -> list[str]:
    """One case in a new directory below `directory`, in a child process. Its trace."""
    place = os.path.join(directory, f"{found.group}-{found.name}-{uid}".encode())
    os.mkdir(place, 0o755)
    os.chown(place, uid, uid)
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(ours)
            trace = _in_child(found, place, uid)
            with os.fdopen(theirs, "wb") as pipe:
                pipe.write(json.dumps(trace).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    try:
        text = _read_all(ours)
    except TimeoutError:
        os.kill(child, signal.SIGKILL)
        text = b""
    finally:
        os.close(ours)
        os.waitpid(child, 0)
    return list(json.loads(text)) if text else ["the case did not end"]


def _in_child(found: Registered, place: bytes, uid: int) -> list[str]:
    os.setgroups([])
    if uid:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    os.chdir(place)
    os.umask(0o022)
    calls = Calls()
    try:
        found.function(calls)
    except BaseException as error:
        calls.note("the case itself failed: " + "".join(traceback.format_exception_only(error)).strip())
    return calls.trace


def _read_all(descriptor: int) -> bytes:
    until = time.monotonic() + LIMIT_S
    parts = []
    while True:
        if not select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
            raise TimeoutError
        data = os.read(descriptor, 1 << 20)
        if not data:
            return b"".join(parts)
        parts.append(data)


def main(group: str, directory: str, uid: int) -> None:
    """Run a group and print the traces."""
    traces = {
        found.name: run_case(found, os.fsencode(directory), uid)
        for found in load_all()
        if found.group == group and not (found.root_only and uid)
    }
    json.dump(traces, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
