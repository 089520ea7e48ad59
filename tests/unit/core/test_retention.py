"""Retention: a pure policy, held to a dumber one that looks at each snapshot by itself."""

from __future__ import annotations

import datetime
from fnmatch import fnmatchcase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliosfs.core.errors import FsError
from heliosfs.core.oplog import KIND_AUTO, KIND_BASE, KIND_IMPORT, KIND_RESTORE, KIND_USER
from heliosfs.core.retention import Candidate, Retention, expired

HOUR = 3600 * 10**9
START = 1_760_000_000 * 10**9

counts = st.integers(0, 4)
policies = st.builds(
    Retention, counts, counts, counts, counts, st.sampled_from([b"", b"*", b"v*", b"[a-m]?", b"none"])
).filter(lambda policy: any((policy.keep_last, policy.hourly, policy.daily, policy.weekly)))
names = st.sampled_from([b"v1", b"v2", b"ab", b"z", b"20260101T000000.000000Z"])
histories = st.lists(
    st.tuples(names, st.integers(0, 60 * 24 * 40), st.integers(0, 4), st.booleans()), max_size=40
).map(
    lambda rows: [
        Candidate(number, b"%s-%d" % (name, number), START + minutes * 60 * 10**9, kind, durable)
        for number, (name, minutes, kind, durable) in enumerate(rows, 1)
    ]
)


def moment(snapshot: Candidate) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(snapshot.time_ns // 10**9, datetime.UTC)


def concerned(policy: Retention, snapshot: Candidate) -> bool:
    if snapshot.kind == KIND_BASE:
        return False
    if policy.match:
        return fnmatchcase(snapshot.name.decode(), policy.match.decode())
    return snapshot.kind in (KIND_AUTO, KIND_RESTORE)


def kept_by_a_rule(policy: Retention, snapshot: Candidate, others: list[Candidate]) -> bool:
    """Says for one snapshot what `expired` finds for all: counting by calendar."""
    newer = [o for o in others if (o.time_ns, o.id) > (snapshot.time_ns, snapshot.id)]
    if len(newer) < policy.keep_last:
        return True
    for wanted, form in [(policy.hourly, "%Y-%m-%d %H"), (policy.daily, "%Y-%m-%d"), (policy.weekly, "%G-%V")]:
        mine = moment(snapshot).strftime(form)
        later = {moment(o).strftime(form) for o in newer}
        if mine not in later and len(later) < wanted:
            return True
    return False


@given(policies, histories, st.integers(0, 40))
@settings(max_examples=300, deadline=None)
def test_as_a_calendar_would_have_it(policy: Retention, history: list[Candidate], latest: int) -> None:
    gone = set(expired(policy, history, latest))
    durable = [s for s in history if s.durable]
    last_durable = max(durable, key=lambda s: (s.time_ns, s.id)).id if durable else 0
    about = [s for s in history if concerned(policy, s)]
    for snapshot in history:
        stays = (
            snapshot not in about
            or snapshot.id in (latest, last_durable)
            or kept_by_a_rule(policy, snapshot, about)
        )
        assert (snapshot.id not in gone) == stays, snapshot


@given(policies, histories)
@settings(max_examples=100, deadline=None)
def test_once_applied_it_has_nothing_more_to_say(policy: Retention, history: list[Candidate]) -> None:
    gone = expired(policy, history, 0)
    assert gone == sorted(gone, key=lambda id_: (history[id_ - 1].time_ns, id_))
    left = [s for s in history if s.id not in set(gone)]
    assert expired(policy, left, 0) == []


def test_named_imported_and_base_snapshots_are_not_its_business_without_a_pattern() -> None:
    kinds = [KIND_USER, KIND_IMPORT, KIND_BASE, KIND_AUTO, KIND_RESTORE, KIND_AUTO]
    history = [Candidate(n, b"s%d" % n, START + n * HOUR, kind, True) for n, kind in enumerate(kinds, 1)]
    assert expired(Retention(keep_last=1), history, 0) == [4, 5]
    assert expired(Retention(keep_last=1, match=b"s*"), history, 0) == [1, 2, 4, 5]


def test_the_last_durable_one_and_latest_stay() -> None:
    history = [Candidate(n, b"s%d" % n, START + n * HOUR, KIND_AUTO, n <= 3) for n in range(1, 8)]
    assert expired(Retention(keep_last=1), history, 5) == [1, 2, 4, 6]


@pytest.mark.parametrize(
    "policy",
    [
        Retention(),
        Retention(keep_last=-1),
        Retention(daily=1_000_001),
        Retention(1, match=b"\xff"),
        Retention(1, match=b"a" * 256),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(policy: Retention) -> None:
    with pytest.raises(FsError):
        policy.check()
