"""`volcrypt config`: what the configuration file says, and whether it can be so."""

from pathlib import Path
from typing import Any

import click
import msgspec

from volcrypt.cli.session import Command, Session, pass_session
from volcrypt.errors import ConfigurationError
from volcrypt.pin_source import check_pin_file
from volcrypt.settings import CONFIG_FILE, OWN_KMS, Profile, Settings, problem_in_file


@click.group()
def config() -> None:
    """The configuration file, HOME/config.toml."""


@config.command(cls=Command)
@pass_session
def check(session: Session) -> None:
    """Check every line, and the files that it names. Opens no key."""
    path = session.home_path / CONFIG_FILE
    settings = session.settings
    check_files(settings, session.home_path)
    notes = [
        f"profiles.{name} names no region, which its KMS needs: every command wants --region"
        for name, profile in settings.profiles.items()
        if profile.kms != OWN_KMS and profile.region is None
    ]

    def text() -> None:
        print(f"{path} {'is in order' if path.exists() else 'is not there: all defaults'}")
        for note in notes:
            print(f"note: {note}")

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


def check_files(settings: Settings, home: Path) -> None:
    """Whether the files that the settings name are there, and as private as they have to be.

    Raises ConfigurationError.
    """
    if settings.kms.pin_file is not None:
        try:
            check_pin_file(home / settings.kms.pin_file)
        except ConfigurationError as error:
            raise problem_in_file(home, ("kms", "pin_file"), str(error)) from error
    for name, cluster in settings.kms.clusters.items():
        for what, path in (
            ("module", cluster.module),
            ("softhsm_configuration", cluster.softhsm_configuration),
            ("trust_anchor", cluster.trust_anchor),
        ):
            if path is not None and not (home / path).is_file():
                option = ("kms", "clusters", name, what)
                raise problem_in_file(home, option, f"there is no file {path}")


def _rows(prefix: str, value: Any) -> list[list[str]]:
    if isinstance(value, dict):
        return [row for key, item in value.items() for row in _rows(f"{prefix}.{key}", item)]
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")
    return [[prefix.lstrip("."), text]]
