"""The command `heliosfs`: finds the verb, imports its module alone, turns every failure into one line.

Invariants: no traceback ever reaches a user (HELIOSFS_DEBUG=1 asks for it); usage errors exit 2; a verb's
module is imported only when that verb, or the list of all verbs, is asked for.
Must not know: what a verb does.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence

import click

from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.output import error_reply, write_json

VERBS: dict[str, str] = {
    "init": "init",
    "import": "importing",
    "mount": "mount",
    "umount": "umount",
    "upgrade": "upgrade",
    "status": "status",
    "ls": "ls",
    "checkpoint": "checkpoint",
    "branch": "branch",
    "restore": "restore",
    "snapshot": "snapshot",
    "log": "log",
    "stats": "stats",
    "fsck": "fsck",
    "scrub": "scrub",
    "gc": "collecting",
    "retention": "retaining",
    "export": "exporting",
    "doctor": "doctor",
    "completion": "completion",
    "demo": "demo",
}
"""Verb -> module of heliosfs.cli that defines it as `command`."""

_DEBUG = "HELIOSFS_DEBUG"


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command, importing its module; None for an unknown verb."""
        module = VERBS.get(cmd_name)
        if module is None:
            return None
        command = importlib.import_module(f"heliosfs.cli.{module}").command
        assert isinstance(command, click.Command)
        return command


def _show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        from heliosfs import __version__

        click.echo(f"heliosfs {__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-C", "at", metavar="PATH", type=click.Path(path_type=bytes), help="Act in PATH.")
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version.",
)
@click.pass_context
def cli(ctx: click.Context, at: bytes | None) -> None:
    """A filesystem whose directories can be checkpointed, branched and rolled back."""
    ctx.obj = at


def _report(words: Sequence[str], error: CliError) -> int:
    """Print a failure the way the caller asked for and give its exit code."""
    if "--json" in words:
        verb = next((word for word in words if word in VERBS), None)
        write_json(error_reply(verb, error))
    print(error.line(), file=sys.stderr)
    return int(error.code)


def _usage(error: click.UsageError) -> CliError:
    """A click usage error as ours: one line, exit 2."""
    hint = "heliosfs --help"
    if error.ctx is not None and error.ctx.info_name != "heliosfs":
        hint = f"{error.ctx.command_path} --help"
    return CliError(error.format_message().rstrip("."), f"see {hint}", Exit.USAGE, errno_name="EINVAL")


def _unexpected(error: BaseException) -> CliError:
    """A failure nobody foresaw: logged in one line; with HELIOSFS_DEBUG=1 the traceback, too."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    logging.getLogger("heliosfs.cli").debug("unexpected", exc_info=error)
    if os.environ.get(_DEBUG):
        traceback.print_exception(error)
    where = f"{os.path.basename(place.filename)}:{place.lineno}"
    return CliError(
        f"unexpected {type(error).__name__} at {where}: {error}",
        f"set {_DEBUG}=1 to see where it comes from, and report it",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: The words after the program's name; sys.argv's by default.

    Returns:
        The exit code (`Exit`). Never raises but for SystemExit out of click's own --help.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        result = cli.main(words, prog_name="heliosfs", standalone_mode=False)
    except click.UsageError as error:
        return _report(words, _usage(error))
    except click.ClickException as error:
        return _report(words, CliError(error.format_message()))
    except CliError as error:
        return _report(words, error)
    except click.Abort:
        print("heliosfs: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (| head): nothing to say, and nowhere to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.ERROR
    except OSError as error:
        return _report(words, CliError.from_os(error))
    except Exception as error:
        return _report(words, _unexpected(error))
    return result if isinstance(result, int) else Exit.OK
