"""`volcrypt config`: what the configuration file says, and whether it can be so."""

from typing import Any

import click
import msgspec

from volcrypt.cli.config_check import check_settings
from volcrypt.cli.session import Command, Group, Session, pass_session, print_paragraph
from volcrypt.settings import CONFIG_FILE, Profile, problems_in_file


@click.group(cls=Group)
def config() -> None:
    """The configuration file, HOME/config.toml."""


@config.command(cls=Command)
@pass_session
def check(session: Session) -> None:
    """Check every line; that files, regions, accounts, principals and keys that it names are there.

    Opens no key and asks no other KMS; a note says what was not looked at.
    """
    path = session.home_path / CONFIG_FILE
    settings = session.settings
    checked = check_settings(settings, session.home_path)
    if checked.problems:
        raise problems_in_file(session.home_path, checked.problems)
    notes = checked.notes

    def text() -> None:
        print(f"{path} {'is in order' if path.exists() else 'is not there: all defaults'}")
        for note in notes:
            print_paragraph(f"note: {note}")

    document = {
        "File": str(path),
        "Exists": path.exists(),
        "Profiles": sorted(settings.profiles),
        "Notes": notes,
    }
    session.show(document, text)


@config.command(cls=Command)
@pass_session
def show(session: Session) -> None:
    """Show all settings, defaults too."""
    document = msgspec.to_builtins(session.settings)
    document["profiles"].setdefault("default", msgspec.to_builtins(Profile()))
    session.show_table(document, ["SETTING", "VALUE"], _rows("", document))


def _rows(prefix: str, value: Any) -> list[list[str]]:
    if isinstance(value, dict):
        return [row for key, item in value.items() for row in _rows(f"{prefix}.{key}", item)]
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")
    return [[prefix.lstrip("."), text]]
