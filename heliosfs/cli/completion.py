"""`heliosfs completion bash|zsh|fish`: prints the shell's completion script."""

from __future__ import annotations

import click

from heliosfs.cli.exits import CliError
from heliosfs.cli.output import local_reply
from heliosfs.cli.verb import json_option, show

_SHELLS = ("bash", "zsh", "fish")


@click.command("completion", short_help="Print a completion script for a shell.")
@click.argument("shell", type=click.Choice(_SHELLS))
@json_option
@click.pass_context
def command(ctx: click.Context, shell: str, as_json: bool) -> None:
    """Print the completion script for SHELL; load it with

    \b
    bash:  source <(heliosfs completion bash)
    zsh:   source <(heliosfs completion zsh)
    fish:  heliosfs completion fish | source
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise CliError(f"no completion for {shell}")
    root = ctx.find_root().command
    # The template alone: `source()` of bash's class starts a shell to ask for its version.
    completion = kind(root, {}, "heliosfs", "_HELIOSFS_COMPLETE")
    script = completion.source_template % completion.source_vars()
    show(local_reply("completion", shell=shell, script=script), [script], as_json)
