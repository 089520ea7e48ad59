"""`heliosfs demo [DIR]`: what HeliosFS is for, shown on a real tree with ordinary programs.

Invariants: whatever happens, a demonstration without --keep leaves neither mount nor file behind; every claim
that it prints has been checked by reading the files again; nothing outside its own directory is written.
Must not know: how the filesystem works. It uses the mount and the command line as anybody does.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from heliosfs.cli.exits import CliError, Exit
from heliosfs.cli.output import as_int, local_reply, shown, size_text, took_text, write_json
from heliosfs.cli.trees import Listing, differences, read_tree
from heliosfs.cli.verb import PATH, json_option, start_directory

_EXITS = frozenset(int(code) for code in Exit)
_TIMEOUT_S = 600.0
_EDIT_TIME_NS = 1_700_000_000_123_456_789


class Demonstration:
    """One run: a store, a mount, an independent copy, and the steps between them.

    Args:
        source: The tree to put under versions; it is only read.
        quiet: Print nothing but failures (with --json).
    """

    def __init__(self, source: bytes, quiet: bool) -> None:
        self.source = source
        self.base = os.fsencode(tempfile.mkdtemp(prefix="heliosfs-demo-"))
        self.store = os.path.join(self.base, b"store")
        self.mount = os.path.join(self.base, b"workspace")
        self.copy = os.path.join(self.base, b"copy")
        self.steps: list[dict[str, object]] = []
        self.reference: Listing | None = None
        self.live = False
        self._quiet = quiet
        os.mkdir(self.mount)

    def say(self, line: str) -> None:
        """A line for the reader."""
        if not self._quiet:
            print(line, flush=True)

    @contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        """Times what is done inside; the list's texts are printed behind the title."""
        notes: list[str] = []
        start = time.perf_counter()
        yield notes
        seconds = time.perf_counter() - start
        self.steps.append({"step": title, "seconds": round(seconds, 6), "notes": notes})
        self.say(f"{len(self.steps):2}. {title:<46} {took_text(seconds):>8}   {'; '.join(notes)}".rstrip())

    def call(self, *words: bytes | str) -> str:
        """Run a program and give its output.

        Raises:
            CliError: It failed, or took longer than ten minutes.
        """
        line = " ".join(shlex.quote(shown(word)) for word in words)
        try:
            done = subprocess.run(
                words, capture_output=True, timeout=_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CliError(f"{line}: {error}") from error
        if done.returncode != 0:
            said = (done.stderr or done.stdout).decode("utf-8", "backslashreplace").strip()
            code = done.returncode if done.returncode in _EXITS else Exit.ERROR
            raise CliError(f"{line}: exit {done.returncode}: {said}", "try heliosfs doctor", code)
        return done.stdout.decode("utf-8", "backslashreplace")

    def heliosfs(self, *words: bytes | str) -> dict[str, object]:
        """Run our own command line in a process of its own; its JSON object."""
        reply = json.loads(self.call(sys.executable, "-m", "heliosfs", *words, "--json"))
        assert isinstance(reply, dict)
        return reply

    def control(self, *names: bytes) -> bytes:
        """A path in the mounted branch's .helios."""
        return os.path.join(self.mount, b".helios", *names)

    def put_under_versions(self) -> None:
        """Store, import, mount; and a copy made by cp, which nothing of ours touches."""
        with self.step("import the tree into a new store") as notes:
            self.heliosfs("init", self.store)
            reply = self.heliosfs("import", self.store, self.source)
            notes.append(f"{as_int(reply.get('files'))} names, {size_text(as_int(reply.get('bytes')))}")
        with self.step("mount it") as notes:
            self.live = True
            self.heliosfs("mount", self.store, self.mount)
            notes.append(shown(self.mount))
        with self.step("cp -a an independent copy beside it, to compare"):
            self.call("cp", "-a", "--", self.source, self.copy)
            shutil.rmtree(os.path.join(self.copy, b".helios"), ignore_errors=True)

    def edit(self) -> None:
        """The same edits, by plain system calls, in the mount and in the copy."""
        with self.step("edit files") as notes:
            for root in (self.mount, self.copy):
                edited = _edit(root)
            notes.append(f"{edited} changed or new")

    def checkpoint(self) -> str:
        """touch .helios/checkpoint, and what it made."""
        with self.step("touch .helios/checkpoint") as notes:
            os.utime(self.control(b"checkpoint"))
        name = os.readlink(self.control(b"snapshots", b"latest"))
        notes.append(f"snapshot {shown(name)}")
        with self.step("ls .helios/snapshots/latest/ (a directory)") as notes:
            names = sorted(os.listdir(self.control(b"snapshots", b"latest")))
            notes.append(f"{len(names)} names: {shown(b' '.join(names[:4]))} ...")
        if set(names) != set(os.listdir(self.copy)):
            raise CliError("the snapshot's listing is not that of the copy")
        return shown(name)

    def fork(self) -> bytes:
        """mkdir .helios/branches/attempt."""
        fork = self.control(b"branches", b"attempt")
        with self.step("mkdir .helios/branches/attempt (a fork)"):
            os.mkdir(fork)
        return fork

    def sandbox(self, fork: bytes) -> None:
        """A command in a container that sees the fork as /workspace, and no other branch.

        Raises:
            CliError: It saw what it should not, or its writes came out elsewhere.
        """
        script = (
            "cd /workspace && echo 'made in the sandbox' > made-in-sandbox && rm edited.txt && "
            "ls -d /* && ls .helios/branches && ls | wc -l"
        )
        with self.step("bwrap: a command that sees only /workspace") as notes:
            out = self.call("bwrap", *_SANDBOX, "--bind", fork, "/workspace", "--", "sh", "-c", script)
            notes.append(f"it saw {out.split()[-1]} files there")
        made, gone = b"made-in-sandbox", b"edited.txt"
        if not os.path.exists(os.path.join(fork, made)) or os.path.exists(os.path.join(fork, gone)):
            raise CliError("the sandbox's edits are not in its branch")
        if os.path.exists(os.path.join(self.mount, made)) or not os.path.exists(os.path.join(self.mount, gone)):
            raise CliError("the sandbox's edits leaked into the main branch")
        if shown(self.base) in out:
            raise CliError("the sandbox saw the host's directories")

    def wreck(self) -> None:
        """rm -rf of everything, and rubbish in its place."""
        with self.step("rm -rf everything, write rubbish instead") as notes:
            names = [os.path.join(self.mount, name) for name in os.listdir(self.mount)]
            before = len(names)
            for at in range(0, before, 500):
                self.call("rm", "-rf", "--", *names[at : at + 500])
            with open(os.path.join(self.mount, b"edited.txt"), "wb") as file:
                file.write(b"rubbish\n")
            notes.append(f"{before} names gone, {len(os.listdir(self.mount))} left")

    def restore(self) -> None:
        """echo latest > .helios/restore."""
        with self.step("echo latest > .helios/restore"):
            descriptor = os.open(self.control(b"restore"), os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, b"latest\n")
            finally:
                os.close(descriptor)

    def verify(self, title: str) -> None:
        """Every byte, mode, time, owner, link and xattr of the mount against the copy.

        Raises:
            CliError: They differ.
        """
        with self.step(title) as notes:
            if self.reference is None:
                self.reference = read_tree(self.copy)
            seen = read_tree(self.mount)
            wrong = differences(seen, self.reference)
            if wrong:
                first = ", ".join(shown(path) for path in wrong[:3])
                raise CliError(f"{len(wrong)} paths differ from the copy: {first}")
            notes.append(f"{seen.files} files, {size_text(seen.read_bytes)}: all equal")

    def remount(self) -> None:
        """Unmount, mount again: a new process has it all."""
        with self.step("unmount, mount again"):
            self.heliosfs("umount", self.mount)
            self.heliosfs("mount", self.store, self.mount)

    def clean_up(self) -> None:
        """Unmount and remove everything; says so if it can't.

        Raises:
            CliError: The mount would not go.
        """
        if self.live and _is_mounted(self.mount):
            try:
                self.heliosfs("umount", self.mount)
            except CliError:
                # Whatever is wrong with the daemon: a lazy unmount ends it, and nothing of ours stays.
                lazy = ("umount", "-l") if os.geteuid() == 0 else ("fusermount3", "-u", "-z")
                self.call(*lazy, self.mount)
        if _is_mounted(self.mount):
            raise CliError(f"{shown(self.mount)} is still mounted", f"heliosfs umount {shown(self.mount)}")
        shutil.rmtree(self.base, onerror=_make_removable)

    def next_commands(self) -> list[str]:
        """What to try with --keep."""
        heliosfs = shlex.quote(os.path.join(os.path.dirname(sys.executable), "heliosfs"))
        mount = shlex.quote(shown(self.mount))
        return [
            f"The mount is live. Try:   cd {mount}",
            "    touch .helios/checkpoint; echo before-lunch > .helios/checkpoint; cat .helios/checkpoint",
            "    ls .helios/snapshots; mkdir .helios/branches/idea; diff -r . .helios/branches/attempt",
            "    rm -rf *; echo latest > .helios/restore; ls",
            f"    {heliosfs} ls; {heliosfs} log; {heliosfs} status",
            f"To end it:   cd; {heliosfs} umount {mount} && rm -r {shlex.quote(shown(self.base))}",
        ]


_SANDBOX = (
    *("--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib"),
    *("--symlink", "usr/lib64", "/lib64", "--symlink", "usr/sbin", "/sbin", "--proc", "/proc", "--dev", "/dev"),
    *("--tmpfs", "/tmp", "--unshare-all", "--die-with-parent", "--new-session"),
)


def _edit(root: bytes) -> int:
    """Edit a tree: a new file, a directory, an appended line, a deleted and a renamed file. Files touched.

    The same in each tree that has the same files; times are set, so that they are equal, too.
    """
    plain = sorted(
        name
        for name in os.listdir(root)
        if os.path.isfile(path := os.path.join(root, name))
        and not os.path.islink(path)
        and os.stat(path).st_nlink == 1
        and name != b"edited.txt"
    )
    touched = [b"edited.txt", os.path.join(b"new-directory", b"note")]
    os.makedirs(os.path.join(root, b"new-directory"), exist_ok=True)
    for name in touched:
        with open(os.path.join(root, name), "wb") as file:
            file.write(b"written before the checkpoint\n" * 100)
    if plain:
        with open(os.path.join(root, plain[0]), "ab") as file:
            file.write(b"# appended\n")
        touched.append(plain[0])
    if len(plain) > 1:
        os.unlink(os.path.join(root, plain[1]))
    if len(plain) > 2:
        os.rename(os.path.join(root, plain[2]), os.path.join(root, b"new-directory", plain[2]))
    for name in (*touched, b"new-directory", b"."):
        os.utime(os.path.join(root, name), ns=(_EDIT_TIME_NS, _EDIT_TIME_NS))
    return len(touched) + min(2, max(0, len(plain) - 1))


def _is_mounted(path: bytes) -> bool:
    from heliosfs.transport.mounts import mounts

    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return any(mount.mountpoint == real for mount in mounts())


def _make_removable(function: object, path: str | bytes, _info: object) -> None:
    """A copied directory without write permission keeps its entries: give it, and try once more."""
    os.chmod(os.path.dirname(path), 0o700)
    if os.path.isdir(path) and not os.path.islink(path):
        os.chmod(path, 0o700)
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _check_machine(source: bytes) -> None:
    """What the demonstration needs, before it begins.

    Raises:
        CliError: Something is missing.
    """
    if not os.path.isdir(source):
        raise CliError(f"{shown(source)}: no such directory", code=Exit.USAGE)
    for program in ("cp", "rm", "bwrap"):
        if shutil.which(program) is None:
            raise CliError(f"{program} is missing", "run mount_scripts/quickstart, which installs it")


def _run(show: Demonstration) -> list[str]:
    """The whole demonstration; gives the steps that this machine does not allow, with the reason."""
    left_out = []
    show.put_under_versions()
    show.edit()
    show.checkpoint()
    fork = show.fork()
    try:
        show.sandbox(fork)
    except CliError as error:
        if "bwrap:" not in error.what:
            raise
        # Some machines forbid user namespaces to users: the rest can be shown all the same.
        left_out.append(error.what)
        show.say(f"    left out: {error.what}")
    show.wreck()
    show.restore()
    show.verify("compare every byte with the copy")
    show.remount()
    show.verify("compare again: it is all on disk")
    return left_out


@click.command("demo", short_help="Show what HeliosFS does, on a real tree.")
@click.argument("directory", required=False, type=PATH)
@click.option("--keep", is_flag=True, help="Leave the mount live, and say what to try next.")
@json_option
@click.pass_context
def command(ctx: click.Context, directory: bytes | None, keep: bool, as_json: bool) -> int:
    """Show what HeliosFS does: import DIRECTORY (by default Python's own library), mount it, edit, checkpoint,
    fork, run a sandbox in the fork, wreck the tree, restore it, and compare every byte.

    DIRECTORY is only read. Nothing is left behind, unless --keep says so.
    """
    chosen = directory or os.fsencode(sysconfig.get_path("stdlib"))
    source = os.path.realpath(os.path.join(start_directory(ctx, None), chosen))
    _check_machine(source)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    show = Demonstration(source, as_json)
    show.say(f"HeliosFS on {shown(source)}")
    try:
        left_out = _run(show)
    except BaseException:
        try:
            show.clean_up()
        except (CliError, OSError) as error:
            # The first failure is the one to tell; this one must not hide it.
            print(f"heliosfs: could not clean up: {error}", file=sys.stderr)
        raise
    if not keep:
        show.clean_up()
    reply = local_reply("demo", steps=show.steps, left_out=left_out, kept=keep, mountpoint=os.fsdecode(show.mount))
    if as_json:
        write_json(reply)
    elif keep:
        show.say("\n".join(show.next_commands()))
    else:
        show.say("All shown, all verified; nothing left behind." if not left_out else "Nothing left behind.")
    return Exit.ERROR if left_out else Exit.OK
