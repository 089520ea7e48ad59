"""Checking a store that no daemon has open."""

from __future__ import annotations

import os
from pathlib import Path

from cas.lock import left_in_order
from heliosfs.cli.checking import check_store, scrub_store
from heliosfs.cli.offline import run_words
from heliosfs.cli.stores import create


def test_a_check_leaves_word_of_how_the_store_was_left(tmp_path: Path) -> None:
    """Who unmounts afterwards what was served before asks for it."""
    store = os.fsencode(tmp_path / "store")
    create(store)
    assert check_store(store, False, print)["ok"]
    assert not left_in_order(tmp_path / "store/lock")
    assert run_words(store, "main", ["status"])["ok"]
    for check in (lambda: check_store(store, False, print), lambda: scrub_store(store, None, print)):
        assert check()["ok"]
        assert left_in_order(tmp_path / "store/lock")
    assert check_store(store, True, print)["ok"]
    assert not left_in_order(tmp_path / "store/lock")
