"""Man pages of commands, made of what `--help` is made of. Writes roff, and knows no files."""

import inspect
import re
from collections.abc import Iterator

import click

from volcrypt import __version__
from volcrypt.cli import exits
from volcrypt.cli.session import Group


def all_commands(root: click.Context) -> Iterator[click.Context]:
    """The command of a context, and all below it."""
    yield root
    if isinstance(root.command, click.Group):
        for name in root.command.list_commands(root):
            command = root.command.get_command(root, name)
            if command is not None and not command.hidden:
                yield from all_commands(click.Context(command, info_name=name, parent=root))


def page_name(context: click.Context) -> str:
    """`volcrypt-volume-create`."""
    return context.command_path.replace(" ", "-")


def man_page(context: click.Context) -> str:
    """The page of a command, in section 1."""
    command = context.command
    name = page_name(context)
    title = _escape(name.upper())
    lines = [
        f'.TH "{title}" 1 "" "volcrypt {_escape(__version__)}" "volcrypt"',
        # Words are whole, and lines as long as they get: names are copied from pages.
        ".nh",
        ".ad l",
        ".SH NAME",
        f"{_escape(name)} \\- {_escape(_summary(command))}",
        ".SH SYNOPSIS",
        f".B {_escape(context.command_path)}",
        _escape(" ".join(command.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        *_paragraphs(command.help or ""),
    ]
    records = [record for each in command.get_params(context) if (record := _record(each, context))]
    if records:
        lines += [".SH OPTIONS", *_list(records)]
    if isinstance(command, click.Group):
        lines += [".SH COMMANDS", *_list(_commands(command, context))]
    lines += _document(context)
    lines += [".SH EXIT STATUS", *_list(_exit_codes())]
    if context.parent is None:
        lines += [".SH ENVIRONMENT", *_list(_ENVIRONMENT)]
    lines += [".SH SEE ALSO", *_see_also(context)]
    return "\n".join(lines) + "\n"


_DOCUMENT_RULE = (
    "Other members may come at any time; one that goes, or means something else, makes a new "
    "version, as member Version."
)
_ENVIRONMENT = [
    ("VOLCRYPT_HOME", "The home, where --home does not name one."),
    ("VOLCRYPT_DEBUG", "With 1, a bug shows where it is."),
    ("CREDENTIALS_DIRECTORY", "Where systemd puts credentials: volcrypt.pin is the token's PIN."),
]


def _document(context: click.Context) -> list[str]:
    """What the command prints with --json."""
    from volcrypt.cli.documents import DOCUMENTS, as_aws, members

    name = context.command_path.partition(" ")[2]
    if isinstance(context.command, click.Group):
        return []
    if as_aws(name):
        return [".SH JSON DOCUMENT", "As the AWS operation of that name answers."]
    if name not in DOCUMENTS:
        return []
    document = DOCUMENTS[name]
    lines = [
        ".SH JSON DOCUMENT",
        f"Version {document.version} of what \\-\\-json prints. {_DOCUMENT_RULE}",
    ]
    for option, shape in {"": document.shape, **document.others}.items():
        listed = [f"{_escape(member)}: {_escape(text)}" for member, text in members(shape)]
        lines += [".PP", *([f"With {_escape(option)}:", ".PP"] if option else ())]
        lines += [".nf", *listed, ".fi"]
    return lines


def _summary(command: click.Command) -> str:
    text = (command.help or "").partition("\n\n")[0]
    return " ".join(text.split()).rstrip(".") or command.name or ""


def _record(parameter: click.Parameter, context: click.Context) -> tuple[str, str] | None:
    if isinstance(parameter, click.Argument):
        return None
    return parameter.get_help_record(context)


def summaries(group: click.Group, context: click.Context) -> dict[str, str]:
    """What `--help` says of each command of a group."""
    if isinstance(group, Group):
        return group.summaries(context)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {
        name: command.get_short_help_str(limit=1000)
        for name, command in found.items()
        if command is not None and not command.hidden
    }


def _commands(group: click.Group, context: click.Context) -> list[tuple[str, str]]:
    texts = summaries(group, context)
    return [(f"{page_name(context)}-{name}(1)", text) for name, text in texts.items()]


def _exit_codes() -> list[tuple[str, str]]:
    """The table that `cli.exits` begins with."""
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", inspect.getdoc(exits) or "", re.MULTILINE)
    return [(code, meaning) for code, meaning in rows]


def _see_also(context: click.Context) -> list[str]:
    pages = []
    parent = context.parent
    while parent is not None:
        pages.append(f"{page_name(parent)}(1)")
        parent = parent.parent
    return [", ".join(_escape(each) for each in pages) or _escape("volcrypt --help")]


def _list(records: list[tuple[str, str]]) -> list[str]:
    lines = []
    for term, text in records:
        lines += [".TP", f".B {_escape(term)}", _escape(" ".join(text.split())) or "\\&"]
    return lines


def _paragraphs(text: str) -> list[str]:
    """As click has it: paragraphs are filled, but for one that begins with a line of \\b alone."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if not lines:
            pass  # the section begins one
        elif paragraph:
            lines.append(".PP")
        if paragraph.startswith("\b"):
            kept = paragraph.partition("\n")[2].splitlines()
            lines += [".nf", *(_escape(each) or "\\&" for each in kept), ".fi"]
        else:
            lines.append(_escape(" ".join(paragraph.split())))
    return lines


def _escape(text: str) -> str:
    """Text that roff shows as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("\b", "")
    # These would be other signs, which cannot be copied into a shell.
    text = (
        text.replace("'", "\\(aq").replace("`", "\\(ga").replace("^", "\\(ha").replace("~", "\\(ti")
    )
    text = text.replace('"', "\\(dq")
    return f"\\&{text}" if text.startswith(".") else text
