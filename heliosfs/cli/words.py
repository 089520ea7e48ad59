"""Builds the words of a command for control, so that a name beginning with a dash stays a name.

Must not know: how the words travel.
"""

from __future__ import annotations

from collections.abc import Sequence


def command_words(verb: Sequence[str], arguments: Sequence[str | None], options: Sequence[str] = ()) -> list[str]:
    """Verb, options, then the arguments that were given; `--` before them if one looks like an option."""
    given = [argument for argument in arguments if argument is not None]
    if any(argument.startswith("-") for argument in given):
        return [*verb, *options, "--", *given]
    return [*verb, *given, *options]
