"""How mount(8) and umount(8) call a filesystem's helpers, and what exit codes they take from them.

Source: mount(8), umount(8), "external helpers". Must not know: what a helper does, click.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from heliosfs.cli.exits import CliError, Exit

USAGE: Final = 1
FAILED: Final = 32


class Words(NamedTuple):
    """What a helper was called with.

    Attributes:
        places: Words that are no options.
        flags: Letters of options without a value.
        groups: Values of -o.
    """

    places: list[str]
    flags: set[str]
    groups: list[str]


def split_words(words: Sequence[str], flags: str, valued: str, usage: str) -> Words:
    """Options anywhere, their letters joined or not, a value joined to its letter or the next word.

    Args:
        flags, valued: Letters without and with a value.
        usage: What to say to who calls it otherwise.

    Raises:
        CliError: Another option, or a value is missing (exit 2).
    """
    found = Words([], set(), [])
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            found.places.append(word)
            continue
        for at, letter in enumerate(word[1:], 1):
            if letter in valued:
                value = word[at + 1 :] or (rest.pop(0) if rest else None)
                if value is None:
                    raise CliError(f"option -{letter} needs a value", usage, Exit.USAGE)
                if letter == "o":
                    found.groups.append(value)
                break
            if letter not in flags:
                raise CliError(f"unknown option -{letter}", usage, Exit.USAGE)
            found.flags.add(letter)
    return found


def exit_code(name: str, act: Callable[[], str]) -> int:
    """Do it and print what it returns, if anything; the code that mount(8) takes. An error is one line."""
    try:
        said = act()
    except CliError as error:
        print(error.line().replace("heliosfs:", f"{name}:", 1), file=sys.stderr)
        return USAGE if error.code == Exit.USAGE else FAILED
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        return FAILED
    if said:
        print(f"{name}: {said}")
    return 0
