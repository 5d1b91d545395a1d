"""`volcrypt completion`, and what is suggested for each argument.

click has the mechanism: the shell runs `volcrypt` with what was typed in environment variables.
What an argument takes is known by how it is called in `--help`, so commands need not say it again.
Suggestions come from the files of the home; no PIN is asked for, and no error printed.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem, get_completion_class

from volcrypt.cli.main import COMPLETION
from volcrypt.cli.session import Command, Session, pass_session
from volcrypt.settings import default_home

if TYPE_CHECKING:
    from volcrypt.operations.suggestions import Suggest

_BY_METAVAR: Final = {
    "VOLUME": ("volumes",),
    "VOLUME...": ("volumes",),
    "V": ("volumes",),
    "VOLUME|SNAPSHOT": ("volumes", "snapshots"),
    "VOLUME|SNAPSHOT|DIR": ("volumes", "snapshots", "dir"),
    "SNAPSHOT": ("snapshots",),
    "[SNAPSHOT]": ("snapshots",),
    "SNAPSHOT...": ("snapshots",),
    "FIRST": ("snapshots",),
    "SECOND": ("snapshots",),
    "S": ("snapshots",),
    "STORE": ("stores",),
    "K": ("keys",),
    "KEY": ("keys",),
    "P": ("principals",),
    "DIR": ("dir",),
}
_BY_NAME: Final = {
    "key_id": ("keys",),
    "kms_key_id": ("keys",),
    "target_key_id": ("keys",),
    "source_key_id": ("keys",),
    "destination_key_id": ("keys",),
    "alias_name": ("aliases",),
    "store": ("stores",),
    "source_store": ("stores",),
    "profile": ("profiles",),
}
_BY_COMMAND: Final = {
    ("encrypt", "volume"): ("unencrypted_volumes",),
    ("rekey", "volume"): ("encrypted_volumes",),
    ("wait", "snapshots"): ("pending_snapshots",),
}
"""Where it takes not just any."""
_ON_UNFINISHED: Final = ("pause", "resume", "abort")
"""Options of `encrypt` that are for volumes which are re-keyed, too."""
_NAMES_OF: Final = {"store": ("stores",), "principal": ("principals",)}
"""What NAME is in the commands of a group."""
_PATHS: Final = ("file", "dir")
_SHELLS: Final = ("bash", "zsh", "fish")


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(_SHELLS))
@pass_session
def completion(session: Session, shell: str) -> None:
    """Print the script that has a shell complete commands, options, and names of volumes,
    snapshots, stores, keys and principals.

    \b
    bash   volcrypt completion bash > /usr/share/bash-completion/completions/volcrypt
    zsh    volcrypt completion zsh > /usr/local/share/zsh/site-functions/_volcrypt
    fish   volcrypt completion fish > /etc/fish/completions/volcrypt.fish

    For one shell alone: eval "$(volcrypt completion bash)".
    """
    script = script_for(shell)
    session.show({"Shell": shell, "Script": script}, lambda: print(script))


def script_for(shell: str) -> str:
    """What the shell has to read."""
    kind = get_completion_class(shell)
    assert kind is not None, "internal error: a shell that click does not know"
    root = click.get_current_context().find_root().command
    made = kind(root, {}, "volcrypt", COMPLETION)
    # Not `source()`, which runs the shell to look at its version.
    return made.source_template % made.source_vars()


@contextmanager
def suggesting() -> Iterator[None]:
    """While the shell is answered, parameters suggest what is there."""
    before = click.Parameter.shell_complete

    def complete(
        parameter: click.Parameter, context: click.Context, incomplete: str
    ) -> list[CompletionItem]:
        kinds = kinds_for(parameter, context)
        if kinds is None:
            return before(parameter, context, incomplete)
        return suggestions(kinds, _home_of(context), incomplete)

    click.Parameter.shell_complete = complete  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        click.Parameter.shell_complete = before  # type: ignore[method-assign]


def kinds_for(parameter: click.Parameter, context: click.Context) -> tuple[str, ...] | None:
    """What a parameter takes; None where click knows better."""
    if isinstance(parameter.type, click.Choice):
        return None
    metavar = parameter.metavar
    some = _BY_COMMAND.get((context.info_name or "", parameter.name or ""))
    if some is not None and not any(context.params.get(option) for option in _ON_UNFINISHED):
        return some
    if metavar == "NAME" and context.parent is not None:
        return _NAMES_OF.get(context.parent.info_name or "")
    if metavar == "DIR" and parameter.name == "home_path":
        return None
    found = _BY_METAVAR.get(metavar) if metavar is not None else None
    return found or _BY_NAME.get(parameter.name or "")


def suggestions(kinds: tuple[str, ...], home: Path, incomplete: str) -> list[CompletionItem]:
    """Of each kind what begins as what was typed."""
    from volcrypt.operations import suggestions as known

    found: list[CompletionItem] = []
    for kind in kinds:
        if kind in _PATHS:
            found.append(CompletionItem(incomplete, type=kind))
            continue
        suggest: Suggest = getattr(known, kind)
        with suppress(Exception):  # a home that is broken, or nobody's
            found += [CompletionItem(name) for name in suggest(home) if name.startswith(incomplete)]
    return found


def _home_of(context: click.Context) -> Path:
    given = context.find_root().params.get("home_path")
    return given if isinstance(given, Path) else default_home()
