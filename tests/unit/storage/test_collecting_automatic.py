"""When a daemon collects unasked."""

from __future__ import annotations

from heliosfs.storage.collecting.automatic import AFTER_DROP_S, ANYWAY_S, GROWN_BYTES, Watch

LIVE = 1 << 30


def due(
    since: float = 100.0,
    *,
    stored: int = LIVE,
    changed: bool = True,
    dropped: int = 0,
    quiet: bool = True,
    free: float = 0.5,
    took: float = 1.0,
) -> bool:
    watch = Watch(1000.0, took, LIVE, 50, 0)
    return watch.due(
        1000.0 + since,
        stored_bytes=stored,
        position=51 if changed else 50,
        dropped=dropped,
        quiet=quiet,
        free_share=free,
    )


def test_growth_a_dropped_snapshot_or_an_hour_make_it_due() -> None:
    assert not due()
    assert not due(stored=LIVE + LIVE // 2)
    assert due(stored=LIVE + LIVE // 2 + 1)
    assert not due(AFTER_DROP_S, dropped=1) and due(AFTER_DROP_S + 1, dropped=1)
    assert not due(ANYWAY_S) and due(ANYWAY_S + 1)
    assert not due(10 * ANYWAY_S, changed=False)


def test_it_waits_for_quiet_and_for_its_own_length_unless_the_disk_is_short() -> None:
    grown = LIVE * 2
    assert not due(stored=grown, quiet=False)
    assert not due(19.0, stored=grown) and due(21.0, stored=grown)
    assert not due(stored=grown, took=10.0)
    assert due(free=0.01, quiet=False)
    assert not due(free=0.01, quiet=False, changed=False)


def test_a_small_store_may_grow_a_little() -> None:
    watch = Watch(0.0, 0.1, 1000, 0, 0)
    asked = {"position": 0, "dropped": 0, "quiet": True, "free_share": 0.5}
    assert not watch.due(100.0, stored_bytes=GROWN_BYTES, **asked)  # type: ignore[arg-type]
    assert watch.due(100.0, stored_bytes=GROWN_BYTES + 1001, **asked)  # type: ignore[arg-type]
