"""Who reads the database for a follower."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
from pathlib import Path

from rocksdict import WriteBatch

from cas.database import Database
from tests.support.mounts import REPOSITORY

WAITING = """
import os, sys
from pathlib import Path
from heliosfs.storage.librarian import Librarian

def called(pid):
    print("called", pid, flush=True)

librarian = Librarian.start(Path(sys.argv[1]))
librarian.call = (int(sys.argv[2]), called)
print(librarian.get(b"key"), flush=True)
print(librarian.get(b"none"), flush=True)
os.kill(librarian._pid, 9)
os.waitpid(librarian._pid, 0)
librarian.while_there(called)
"""


def test_who_is_called_while_it_waits_for_the_database_is_told_so_at_once(tmp_path: Path) -> None:
    """And once: the order itself is left to be read. Somebody that is dead is left alone."""
    path = tmp_path / "db"
    database = Database(path)
    batch = WriteBatch(raw_mode=True)
    batch.put(b"key", b"value")
    database.write(batch)
    database.close()
    ours, theirs = os.pipe()
    # Who opens the database waits for this.
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, path, str(ours)], cwd=REPOSITORY, stdout=subprocess.PIPE, pass_fds=(ours,)
    ) as process:
        assert process.stdout is not None
        assert not select.select([process.stdout], [], [], 0.5)[0]
        os.write(theirs, b"serve")
        said, pid = process.stdout.readline().split()
        assert (said, Path(f"/proc/{int(pid)}").exists()) == (b"called", True)
        os.close(directory)
        assert process.stdout.read().splitlines() == [b"b'value'", b"None"]
    os.close(ours)
    os.close(theirs)


DIVIDED = """
import os, sys
from pathlib import Path
from heliosfs.storage.librarian import Librarian

librarian = Librarian.start(Path(sys.argv[1]))
asking = librarian.line_for_another()
child = os.fork()
if child:
    asking.close()
else:
    librarian.use(asking)
key = b"parent" if child else b"child"
for _ in range(2000):
    assert librarian.get(key) == key * 50
librarian.close()
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
# Nobody asks any more.
assert os.wait()[1] == 0
"""


def test_two_ask_at_once_after_a_fork(tmp_path: Path) -> None:
    path = tmp_path / "db"
    database = Database(path)
    batch = WriteBatch(raw_mode=True)
    for key in (b"parent", b"child"):
        batch.put(key, key * 50)
    database.write(batch)
    database.close()
    subprocess.run([sys.executable, "-c", DIVIDED, path], cwd=REPOSITORY, timeout=60, check=True)
