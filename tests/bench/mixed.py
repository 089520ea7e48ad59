"""The mixed load: clients that are processes of their own, each in a directory of its own.

They are started before the clock; each checks what it reads and says how long its calls took.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Final

from tests.bench.mounts import Mount

_TIMEOUT_S: Final = 300

_CLIENT: Final = """
import json, os, random, sys, time
top, seed, operations, files = sys.argv[1], *map(int, sys.argv[2:5])
pick = random.Random(seed)
clock = time.perf_counter
os.mkdir(top)
names = [f"{top}/f{number:04}" for number in range(files)]
content = {}
for name in names:
    content[name] = pick.randbytes(16) * 256
    with open(name, "wb") as file:
        file.write(content[name])
print("ready", flush=True)
sys.stdin.readline()
taken, right, made = [], True, 0
for _ in range(operations):
    dice, name = pick.random(), names[pick.randrange(files)]
    if dice < 0.7:
        start = clock()
        fd = os.open(name, os.O_RDONLY)
        found = os.pread(fd, 4096, 0)
        os.close(fd)
        end = clock()
        right = right and found == content[name]
    elif dice < 0.9:
        data = pick.randbytes(16) * 256
        start = clock()
        fd = os.open(name, os.O_WRONLY)
        os.pwrite(fd, data, 0)
        os.close(fd)
        end = clock()
        content[name] = data
    else:
        new, old, older = (f"{top}/m{number:06}" for number in (made, made - 1, made - 2))
        start = clock()
        if made % 4 == 0:
            os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        elif made % 4 == 1:
            os.rename(old, new)
        elif made % 4 == 2:
            os.chmod(old, 0o600)
        else:
            os.unlink(older)
        end = clock()
        made += 1
    taken.append(end - start)
for name, data in content.items():
    with open(name, "rb") as file:
        right = right and file.read() == data
left = set(os.listdir(top)) - {name.rpartition("/")[2] for name in names}
right = right and len(left) == (1 if made % 4 else 0)
print(json.dumps([right, taken]))
"""


def mixed(mount: Mount, name: str, operations: int, files: int, *, clients: int) -> tuple[float, list[float], bool]:
    """A load of 70 % reads, 20 % writes of 4 KiB and 10 % of names: create, rename, chmod, unlink.

    Args:
        name: Of a directory that is made for it.
        operations: Of each client.
        files: That each client has.

    Returns:
        Operations a second, all clients together; milliseconds of each; whether all that was read was right.
    """
    top = mount.point / name
    top.mkdir()
    started = [
        subprocess.Popen(
            [sys.executable, "-S", "-c", _CLIENT, top / f"c{number}", str(number), str(operations), str(files)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(clients)
    ]
    try:
        for client in started:
            assert client.stdout is not None
            if client.stdout.readline() != "ready\n":
                raise OSError("a client did not start")
        mount.idle()
        start = time.perf_counter()
        for client in started:
            assert client.stdin is not None
            client.stdin.write("\n")
            client.stdin.flush()
        said = [client.communicate(timeout=_TIMEOUT_S)[0] for client in started]
        whole = time.perf_counter() - start
    finally:
        for client in started:
            client.kill()
            client.wait()
    found = [json.loads(line) for line in said]
    taken = [seconds * 1e3 for _, times in found for seconds in times]
    return clients * operations / whole, taken, all(right for right, _ in found)
