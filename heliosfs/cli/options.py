"""`-o` of mount, as mount(8) users write it, turned into MountOptions.

Invariants: every option is taken, ignored for a known reason, or refused by name. Sizes are bytes, times
seconds. Must not know: how a mount is made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from heliosfs.cli.exits import CliError, Exit
from heliosfs.daemon.options import DEFAULT_TRANSPORT, MountOptions
from heliosfs.transport.options import PASSED_ON

_IGNORED = frozenset(
    # mount(8) and fstab act on these before or after us, or they say what is so anyway.
    (
        *("defaults", "auto", "noauto", "user", "nouser", "users"),
        *("nousers", "owner", "group", "nofail", "_netdev", "loud"),
        "silent",
        *("strictatime", "nostrictatime", "relatime", "norelatime", "lazytime", "nolazytime"),
        *("iversion", "noiversion", "mand", "nomand"),
        "default_permissions",
    )
)
_IGNORED_PREFIXES = ("x-", "X-", "comment=", "uhelper=", "helper=", "fsname=", "subtype=")

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d+)([kmgt]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)?", re.ASCII)
_TIME_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}


def _refuse(what: str, remedy: str) -> CliError:
    return CliError(what, remedy, Exit.USAGE, errno_name="EINVAL")


def size_bytes(name: str, text: str) -> int:
    """'128M' -> 134217728; units k, m, g, t are powers of 1024.

    Raises:
        CliError: Not a size, or 0 (exit 2).
    """
    match = _SIZE.fullmatch(text)
    value = int(match[1]) * _UNITS[match[2].lower()] if match and len(match[1]) < 16 else 0
    if not 0 < value < 1 << 62:
        raise _refuse(f"option {name}={text}: not a size", f"write it like {name}=128M")
    return value


def time_s(name: str, text: str) -> float:
    """'1s' -> 1.0, '50ms' -> 0.05, '2m' -> 120.0; a bare number is seconds.

    Raises:
        CliError: Not a time, or not within 1 ms to 1 h (exit 2).
    """
    match = _TIME.fullmatch(text)
    value = float(match[1]) * _TIME_UNITS[match[2] or ""] if match else 0.0
    if not 0.001 <= value <= 3600:
        raise _refuse(f"option {name}={text}: not a time from 1ms to 60m", f"write it like {name}=1s")
    return value


def _word(name: str, text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise _refuse(f"option {name}={text}: unknown value", f"it can be {' or '.join(choices)}")
    return text


def _branch(name: str, value: str) -> str:
    if value.startswith("/") or value.endswith("/"):
        raise _refuse(f"option {name}={value}: not a branch", f"write it like {name}=main/exp")
    return value


def _control(name: str, value: str) -> bool:
    return _word(name, value, ("hidden", "visible")) == "visible"


def _cache(name: str, value: str) -> str:
    return _word(name, value, ("private", "shared"))


def _yes(name: str, value: str) -> bool:
    return _word(name, value, ("yes", "no")) == "yes"


def _transport(name: str, value: str) -> str:
    return _word(name, value, ("pyfuse3", "kernel"))


def _gc(name: str, value: str) -> str:
    return _word(name, value, ("auto", "manual"))


_RULES = {"last": "--keep-last", "hourly": "--hourly", "daily": "--daily", "weekly": "--weekly", "match": "--match"}


def _retention(name: str, value: str) -> tuple[str, ...]:
    """'last:10+daily:7+match:auto-*' as words of the command; 'none' clears the policy."""
    if value == "none":
        return ("--clear",)
    words: list[str] = []
    for rule in value.split("+"):
        key, colon, given = rule.partition(":")
        option = _RULES.get(key)
        number = key == "match" or (given.isdecimal() and len(given) < 8)
        if option is None or not colon or not given or not number or option in words:
            raise _refuse(f"option {name}={value}: not a policy", f"write it like {name}=last:10+daily:7")
        words += [option, given]
    if all(not word.strip("0") or not word.isdecimal() for word in words[1::2]):
        raise _refuse(f"option {name}={value}: keeps nothing", f"write it like {name}=last:10+daily:7")
    return tuple(words)


def _permissions(name: str, value: str) -> bool:
    return _word(name, value, ("checked", "trusted")) == "trusted"


def _debug(name: str, value: str) -> str:
    return _word(name, value, ("requests",))


_OWN: dict[str, tuple[str, Callable[[str, str], object]]] = {
    "branch": ("branch", _branch),
    "memory": ("memory_bytes", size_bytes),
    "log": ("log_bytes", size_bytes),
    "commit": ("commit_s", time_s),
    "control": ("control_visible", _control),
    "gc": ("gc", _gc),
    "retention": ("retention", _retention),
    "cache": ("cache", _cache),
    "transport": ("transport", _transport),
    "permissions": ("trusted", _permissions),
    "debug": ("debug", _debug),
    "supervised": ("supervised", _yes),
    "follow": ("follow", _yes),
    "realtime": ("realtime", _yes),
    "pm_qos": ("pm_qos", _yes),
}
"""Option -> field of MountOptions, and what reads its value."""


def parse(groups: Iterable[str], *, sloppy: bool = False) -> MountOptions:
    """Options as given with -o, any number of times, separated by commas.

    Args:
        groups: The arguments of every -o, in order; later ones win.
        sloppy: Leave out what is unknown instead of refusing it (mount -s).

    Raises:
        CliError: An unknown option or a bad value; the message names it (exit 2).
    """
    flags: list[str] = []
    taken: dict[str, Any] = {}
    for word in (word.strip() for group in groups for word in group.split(",")):
        name, _, value = word.partition("=")
        if not word or word in _IGNORED or word.startswith(_IGNORED_PREFIXES):
            continue
        own = _OWN.get(name)
        if word in PASSED_ON:
            flags.append(word)
        elif word == "nonempty":
            taken["nonempty"] = True
        elif own is not None:
            if not value:
                raise _refuse(f"mount option {word} needs a value", "see heliosfs mount --help")
            taken[own[0]] = own[1](name, value)
        elif not sloppy:
            raise _refuse(f"unknown mount option {word}", "see heliosfs mount --help")
    options = MountOptions(flags=tuple(flags), **taken)
    transport = options.transport or DEFAULT_TRANSPORT
    if options.cache == "shared" and transport != "kernel":
        raise _refuse("option cache=shared: not on this transport", "add transport=kernel, or leave it out")
    if taken.get("supervised") and not options.outlives_its_process:
        why = "cache=shared" if options.cache == "shared" else "this transport"
        raise _refuse(f"option supervised=yes: not with {why}", "leave it out: a death then ends the mount")
    if options.trusted and transport != "kernel":
        raise _refuse("option permissions=trusted: not on this transport", "add transport=kernel, or leave it out")
    if options.trusted and "allow_other" in flags and os.geteuid():
        raise _refuse("permissions=trusted does not go with allow_other", "only root may let others in unchecked")
    return options
