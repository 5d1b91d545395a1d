"""What every command needs: the global options, the home, and the two ways to print a result."""

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import click

from volcrypt.errors import CustomerKeyMissingError, WrongCustomerKeyError
from volcrypt.settings import Settings, default_home, read_settings

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from volcrypt.cli.progress import Bars, Lines
    from volcrypt.operations.home import Home
    from volcrypt.operations.progress import Progress

_INDENT: Final = "    "
JsonValue = Any
"""What the json module accepts; only the edge of the program has values without a type."""


@dataclass(kw_only=True)
class Session:
    """One run of the command line."""

    home_path: Path = field(default_factory=default_home)
    profile: str = "default"
    region: str | None = None
    as_json: bool = False
    _progress: "Bars | Lines | None" = None

    @cached_property
    def settings(self) -> Settings:
        return read_settings(self.home_path)

    @cached_property
    def key_home(self) -> "Home":
        """The home of this run, closed when the command ends; keys may be in any account and
        region that it serves."""
        from volcrypt.cli.access import open_home

        root = click.get_current_context().find_root()
        home = root.with_resource(open_home(self))
        _thaw_overdue(home)
        root.call_on_close(lambda: _tidy_up(home))  # before the home is closed
        return home

    @cached_property
    def home(self) -> "Home":
        """The home of this run, for commands on volumes and snapshots: in its own region."""
        self.key_home.check_own_region()
        return self.key_home

    def progress(self) -> "Progress":
        """A bar on a terminal, plain lines otherwise; always on standard error."""
        from volcrypt.cli.progress import progress_for

        progress = self._progress = progress_for(sys.stderr)
        click.get_current_context().find_root().with_resource(progress)
        return progress

    def show(self, document: JsonValue, text: Callable[[], None]) -> None:
        """`document` as the one JSON document on stdout with --json, else what `text` prints."""
        if self._progress is not None:
            self._progress.close()  # a bar that is still alive would stand below the result
        if self.as_json:
            print(json.dumps(document, indent=2, ensure_ascii=False))
        else:
            text()

    def warn(self, texts: Iterable[str]) -> None:
        """What is wrong with some of the objects that are shown, below them: on standard error."""
        sys.stdout.flush()
        for text in texts:
            print(f"warning: {text}", file=sys.stderr)

    def show_created(self, identity: str, document: JsonValue, fields: Mapping[str, str]) -> None:
        """As `show_fields`, but only the new id where no terminal reads it: for scripts."""
        if not self.as_json and not sys.stdout.isatty():
            self.show(document, lambda: print(identity))
        else:
            self.show_fields(document, fields)

    def show_table(
        self, document: JsonValue, columns: Sequence[str], rows: Sequence[Sequence[str]]
    ) -> None:
        self.show(document, lambda: print_table(columns, rows))

    def show_fields(self, document: JsonValue, fields: Mapping[str, str]) -> None:
        self.show(document, lambda: print_fields(fields))


def _thaw_overdue(home: "Home") -> None:
    """First of all: somebody may be waiting to write, even this command."""
    if any(home.runtime.glob("frozen-*.json")):
        from volcrypt.operations.freeze_notes import thaw_overdue

        for line in thaw_overdue(home.runtime):
            print(f"warning: {line}", file=sys.stderr)


def _tidy_up(home: "Home") -> None:
    """What can be done with a KMS that the command has opened anyway."""
    if home.is_open:
        from volcrypt.operations.lazy_volumes import settle_lazy_volumes
        from volcrypt.operations.leases import release_abandoned_leases
        from volcrypt.operations.mount_grants import retire_abandoned_grants
        from volcrypt.operations.scratch import remove_scratch

        retire_abandoned_grants(home)
        release_abandoned_leases(home)
        settle_lazy_volumes(home)
        remove_scratch(home)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns under a heading; nothing is cut or wrapped, so the output can be searched. On
    a terminal that is too narrow a row goes on in further lines, below the first and indented."""
    lines = [list(columns), *[[cell or "-" for cell in row] for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    parts = _parts(widths, limit)
    for line in lines:
        for part in parts:
            cells = (f"{line[i]:<{widths[i]}}" for i in part)
            print((_INDENT if part.start else "") + "  ".join(cells).rstrip())


def _parts(widths: Sequence[int], limit: int | None) -> list[range]:
    """Which columns stand beside each other where a line has `limit` characters."""
    parts: list[range] = []
    start, used = 0, 0
    for index, width in enumerate(widths):
        if limit is not None and index > start and used + width > limit:
            parts.append(range(start, index))
            start, used = index, len(_INDENT)
        used += width + 2
    return [*parts, range(start, len(widths))]


def print_paragraph(text: str, *, indent: str = "") -> None:
    """One line; on a terminal as many as it takes, which end between words, the others indented."""
    if not sys.stdout.isatty():
        print(text)
        return
    import textwrap

    width = shutil.get_terminal_size().columns
    lines = textwrap.wrap(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    print("\n".join(lines))


def print_fields(fields: Mapping[str, str]) -> None:
    width = max(map(len, fields))
    for name, value in fields.items():
        print(f"{name:<{width}}  {value or '-'}")


class Command(click.Command):
    """A command that takes --json behind its name too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(json_option())

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """Without the options that nobody began to type, where there is something to choose."""
        return super().shell_complete(ctx, incomplete) if incomplete.startswith("-") else []

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (CustomerKeyMissingError, WrongCustomerKeyError) as error:
            options = {option for parameter in self.params for option in parameter.opts}
            error.hint = _where_to_give_it(options)
            raise


def _where_to_give_it(options: set[str]) -> str | None:
    """Which of a command's options takes the key that something is under already."""
    if "--source-customer-key-file" not in options:
        return "give it with --customer-key-file" if "--customer-key-file" in options else None
    return (
        "give it with --source-customer-key-file, or with --customer-key-file if what is made is "
        "to be under it too"
    )


class Group(click.Group):
    """A group whose commands may be imported when they are asked for: `--help` stays fast."""

    command_class = Command

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]] | None = None, **kw: Any):
        super().__init__(*args, **kw)
        self.group_class = Group
        self._lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self._lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        import importlib

        module, _help = self._lazy[cmd_name]
        attribute = cmd_name.replace("-", "_")
        return cast(click.Command, getattr(importlib.import_module(module), attribute))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """As click's, but lazy commands are not imported for it."""
        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        from click.shell_completion import CompletionItem

        return [
            CompletionItem(name, help=text)
            for name, text in self.summaries(ctx).items()
            if name.startswith(incomplete)
        ]

    def summaries(self, ctx: click.Context) -> dict[str, str]:
        """What `--help` says of each command; lazy ones are not imported for it."""
        named = {name: text for name, (_module, text) in self._lazy.items()}
        for name in super().list_commands(ctx):
            command = super().get_command(ctx, name)
            if command is not None and not command.hidden:
                named[name] = command.get_short_help_str(limit=1000)
        return named

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's, but with whole sentences."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.summaries(ctx).items()))


def json_option() -> click.Option:
    def note(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
        if value:
            context.ensure_object(Session).as_json = True

    return click.Option(
        ["--json"],
        is_flag=True,
        expose_value=False,
        callback=note,
        help="Print one JSON document instead of text.",
    )


pass_session = click.make_pass_decorator(Session)
