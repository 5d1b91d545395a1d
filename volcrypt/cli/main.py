"""The entry point: global options, the table of commands, errors to one line and an exit code."""

import errno
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import click

from volcrypt import __version__
from volcrypt.cli.exits import Exit, exit_code_of
from volcrypt.cli.session import Group, Session, json_option
from volcrypt.errors import VolcryptError

COMPLETION = "_VOLCRYPT_COMPLETE"
"""A variable of the environment: what the shell wants to have completed."""
_AGAIN_SECONDS = 5.0

COMMANDS = {
    "init": ("volcrypt.cli.home", "Make a home: token, key catalogue, register."),
    "status": ("volcrypt.cli.home", "What is there, what is open, what deserves attention."),
    "kms": ("volcrypt.cli.kms", "Key management, with the operations of 'aws kms'."),
    "principal": ("volcrypt.cli.principal", "Users of the KMS, their policies and access keys."),
    "volume": ("volcrypt.cli.volume", "Create, import, list, check and delete volumes."),
    "mount": ("volcrypt.cli.mounts", "Serve the plaintext of a volume as DIR/volume."),
    "unmount": ("volcrypt.cli.mounts", "End a mount."),
    "attach": ("volcrypt.cli.mounts", "Put a volume on a loop device, and mount its file system."),
    "detach": ("volcrypt.cli.mounts", "Take a volume off its loop device."),
    "store": ("volcrypt.cli.store", "Make, join and check snapshot stores, in S3 or a directory."),
    "snapshot": ("volcrypt.cli.snapshot", "Create, copy, verify and delete snapshots."),
    "encrypt": ("volcrypt.cli.encrypt", "Turn an unencrypted volume into an encrypted one."),
    "rekey": ("volcrypt.cli.encrypt", "Give an encrypted volume a new data key, also in use."),
    "settings": ("volcrypt.cli.settings", "Encryption by default, and the default key."),
    "report": ("volcrypt.cli.report", "What is not encrypted, and what a key is needed for."),
    "backup": ("volcrypt.cli.backup", "Write the key management state to an encrypted file."),
    "restore": ("volcrypt.cli.backup", "Make a new home from a backup."),
    "config": ("volcrypt.cli.config", "Check and show the configuration file."),
    "man": ("volcrypt.cli.man", "Show or write the manual pages."),
    "completion": ("volcrypt.cli.completion", "Print what has a shell complete commands."),
    "doctor": ("volcrypt.cli.doctor", "Look at this host and home, and say how to mend them."),
    "audit": ("volcrypt.cli.audit", "Read the record of every use of a key."),
}


@click.group(
    cls=Group,
    lazy=COMMANDS,
    params=[json_option()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="volcrypt", message="%(prog)s %(version)s")
@click.option(
    "--home",
    "home_path",
    type=click.Path(path_type=Path),
    help="Directory with all state [default: $VOLCRYPT_HOME; else /var/lib/volcrypt for root, "
    "$XDG_DATA_HOME/volcrypt or ~/.local/share/volcrypt for others].",
)
@click.option("--profile", default="default", help="Profile of the configuration file to act as.")
@click.option(
    "--region", help="Region of the keys; of volumes and snapshots it is always the home's."
)
@click.pass_context
def volcrypt(
    context: click.Context, home_path: Path | None, profile: str, region: str | None
) -> None:
    """Volumes encrypted on this host under keys that only a KMS can unwrap.

    Who is not root needs XDG_RUNTIME_DIR, a private directory on tmpfs, for sockets and change
    maps; a login through systemd sets it.
    """
    session = context.ensure_object(Session)
    session.profile = profile
    session.region = region
    if home_path is not None:
        session.home_path = home_path


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its code. No traceback reaches the user; a bug says so in one
    line, and shows itself with VOLCRYPT_DEBUG=1."""
    # We do no algebra, and a thread of numpy's would take the signals that ours hold back.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """The exit code of one command; errors are printed."""
    if COMPLETION in os.environ:
        return _complete()
    try:
        code = volcrypt.main(arguments, prog_name="volcrypt", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else Exit.DONE
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.ctx.get_help())
        return Exit.USAGE
    except click.ClickException as error:
        return _fail([error.format_message()], _usage_hint(error), Exit.USAGE)
    except (click.exceptions.Abort, KeyboardInterrupt):
        resumable = {"encrypt", "rekey", "copy", "import"} & set(arguments)
        hint = "the same command goes on where this one stopped" if resumable else None
        return _fail(["interrupted"], hint, Exit.INTERRUPTED)
    except VolcryptError as error:
        return _fail(error.lines, error.hint, exit_code_of(error))
    except BrokenPipeError:
        # The reader went away; the rest of the output has nowhere to go, nor has Python's flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except OSError as error:
        message, hint = _describe(error)
        return _fail([message], hint, Exit.FAILED)
    except Exception as error:
        if os.environ.get("VOLCRYPT_DEBUG"):
            raise
        hint = "this is a bug in volcrypt; VOLCRYPT_DEBUG=1 shows where"
        return _fail([f"internal error: {type(error).__name__}: {error}"], hint, Exit.FAILED)


def _complete() -> int:
    """Answer the shell, which asks by environment variables. Whatever is wrong, nothing is printed
    into the line that somebody types."""
    from volcrypt.cli.completion import suggesting

    with suppress(Exception), suggesting():
        volcrypt.main([], prog_name="volcrypt", complete_var=COMPLETION)
    return Exit.DONE


def _describe(error: OSError) -> tuple[str, str | None]:
    where = f"{error.filename}: " if error.filename is not None else ""
    hint = "free some space and try again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
    return f"{where}{error.strerror or error}", hint


def _usage_hint(error: click.ClickException) -> str | None:
    context = getattr(error, "ctx", None)
    return f"see '{context.command_path} --help'" if context else None


def _fail(messages: Sequence[str], hint: str | None, code: int) -> int:
    lines = [_one_line(message) for message in messages]
    for line in lines:
        print(f"error: {line}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    if os.environ.get("NOTIFY_SOCKET"):
        from volcrypt.daemons.notify import notify

        notify(f"STATUS=error: {'; '.join(lines)}" + (f"; hint: {hint}" if hint else ""))
        if code == Exit.TRY_AGAIN and os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid()):
            # As the service itself: Restart= tries again at once, and a limit on starts would give
            # up before the KMS, the HSM or the network is there.
            with suppress(KeyboardInterrupt):
                time.sleep(_AGAIN_SECONDS)
    return code


def _one_line(message: str) -> str:
    line = " ".join(message.split()).rstrip(".")
    if line[1:2].islower():  # a sentence of AWS's or of click's, not an acronym or a name
        line = line[0].lower() + line[1:]
    return line
