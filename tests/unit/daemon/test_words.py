"""The line between supervisor and workers."""

from __future__ import annotations

from heliosfs.daemon import words


def test_last_words_are_heard_from_one_that_has_not_listened() -> None:
    """A worker may end before it has read all that it was told; that it ends in good order must not get lost."""
    ours, theirs = words.pair()
    with ours:
        with theirs:
            words.say(theirs, {"say": "serving"})
            words.say(theirs, {"say": "ended"})
            words.say(ours, {"do": "known"})
        assert words.hear(ours) == ({"say": "serving"}, [])
        assert words.hear(ours) == ({"say": "ended"}, [])
        assert words.hear(ours) is None
        assert words.hear(ours) is None
        assert not words.say(ours, {"do": "known"})
