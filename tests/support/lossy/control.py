"""Commands for a lossy filesystem: one JSON line in, one out, over a Unix socket.

{"do": "epoch"}                               -> {"epoch": "e1"}
{"do": "renew"}                               -> {"epoch": "e2"}: a new, empty one
{"do": "cut", "how": "torn", "seed": 5}       -> {"epoch": "e3", "writes": 3, "names": 1, "torn": 2}
{"do": "rules", "rules": [{...}]}             -> {}: instead of those before
{"do": "capacity", "bytes": 1000}             -> {}; without bytes: as good as none
{"do": "state"}                               -> {"off": false, "used": 5, "counts": {...}, "hit": 0}
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import trio

from tests.support.lossy.faults import Rule
from tests.support.lossy.filesystem import LossyFilesystem


async def serve(filesystem: LossyFilesystem, listener: trio.SocketListener) -> None:
    """Answer one client after another."""
    while True:
        stream = await listener.accept()
        async with stream:
            buffer = b""
            while data := await stream.receive_some():
                buffer += data
                while b"\n" in buffer:
                    line, _, buffer = buffer.partition(b"\n")
                    answer = _carry_out(filesystem, json.loads(line))
                    await stream.send_all(json.dumps(answer).encode() + b"\n")


def _carry_out(filesystem: LossyFilesystem, command: dict[str, Any]) -> dict[str, Any]:
    do = command["do"]
    if do == "epoch":
        return {"epoch": f"e{filesystem.epoch}"}
    if do == "renew":
        return {"epoch": filesystem.renew()}
    if do == "cut":
        epoch, losses = filesystem.cut(command["how"], command["seed"])
        return {"epoch": epoch, **asdict(losses)}
    if do == "rules":
        filesystem.rules = [Rule(**rule) for rule in command["rules"]]
        return {}
    if do == "capacity":
        filesystem.full = 0
        filesystem.capacity = command.get("bytes", 1 << 40)
        return {}
    assert do == "state", do
    hit = filesystem.full + sum(rule.hit for rule in filesystem.rules)
    return {"off": filesystem.off, "used": filesystem.used, "counts": dict(filesystem.counts), "hit": hit}
