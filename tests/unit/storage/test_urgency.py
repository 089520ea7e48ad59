"""A cut that somebody waits for is not left to workers who let everybody else go first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from heliosfs.core.ids import ROOT_INO, Lsn, node_id
from heliosfs.filesystem import Caller, Filesystem, open_filesystem
from heliosfs.storage import persist

ME = Caller(0, 0)


async def change(fs: Filesystem, name: bytes) -> None:
    assert fs.engine.main is not None
    made = await fs.make(node_id(fs.engine.main.view, ROOT_INO), name, 0o100644, ME)
    await fs.write(made.node, 0, os.urandom(5000), ME)


async def test_only_who_waits_urges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persist, "QUIET_S", 0.01)
    urged: list[bool] = []
    async with open_filesystem(tmp_path / "store", create=True) as fs:
        waiting = 0
        real, cut = fs.pool.urged, fs.persister.cut

        @contextmanager
        def counted() -> Iterator[None]:
            nonlocal waiting
            waiting += 1
            with real():
                yield
            waiting -= 1

        async def watched() -> None:
            urged.append(waiting > 0)
            await cut()

        monkeypatch.setattr(fs.pool, "urged", counted)
        monkeypatch.setattr(fs.persister, "cut", watched)
        await change(fs, b"a")
        with trio.fail_after(20):
            while not fs.persister.cuts:
                await trio.sleep(0.01)
        assert urged == [False], "nobody waits for the cut of what is quiet"
        await change(fs, b"b")
        await fs.persister.wait_for(Lsn(fs.log.end))
        assert urged[1:] == [True]
