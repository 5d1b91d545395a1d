"""`volcrypt settings`: encryption by default, and the default key."""

from typing import TYPE_CHECKING, Final

import click

from volcrypt.cli.session import Command, Group, JsonValue, Session, pass_session

if TYPE_CHECKING:
    from volcrypt.operations.volume_settings import SettingsView

ENCRYPTION: Final = "encryption-by-default"
KEY: Final = "default-kms-key"
_NAMES: Final = click.Choice([ENCRYPTION, KEY])
_SWITCH: Final = {"on": True, "off": False}
_NO_KEY: Final = "none"


@click.group(cls=Group)
def settings() -> None:
    """How new volumes and copies are made, in the account and region of the profile.

    With encryption-by-default on, volumes, imports and copies are encrypted under the default key
    where no other is named, also those from unencrypted snapshots, and --unencrypted is refused.
    What is there already stays as it is.

    The default key is the profile's default_kms_key, else what is set here, else
    alias/volcrypt/ebs, which another KMS than the home's does not have.
    """


@settings.command(cls=Command)
@click.argument("name", type=_NAMES, required=False)
@pass_session
def get(session: Session, name: str | None) -> None:
    """Show one setting, or all."""
    from volcrypt.operations.volume_settings import view_settings

    found = view_settings(session.key_home)
    texts = {
        ENCRYPTION: encryption_text(found),
        KEY: found.default_kms_key or _NO_KEY,
    }
    if name is not None:
        session.show(settings_document(found), lambda: print(texts[name]))
        return
    fields = {
        **texts,
        "set by": found.default_key_source.value,
        "account": found.account,
        "region": found.region,
    }
    session.show_fields(settings_document(found), fields)


@settings.command("set", cls=Command)
@click.argument("name", type=_NAMES)
@click.argument("value")
@pass_session
def set_(session: Session, name: str, value: str) -> None:
    """Change a setting: encryption-by-default to on or off, default-kms-key to a key id, ARN or
    alias, or to none.

    This takes volcrypt:EnableEbsEncryptionByDefault, DisableEbsEncryptionByDefault,
    ModifyEbsDefaultKmsKeyId or ResetEbsDefaultKmsKeyId, and is on the audit log. The key has to be
    one that the caller may make volumes with. An alias is looked up once.
    """
    from volcrypt.operations.volume_settings import (
        set_default_key,
        set_encryption_by_default,
        view_settings,
    )

    home = session.key_home
    if name == ENCRYPTION:
        if value not in _SWITCH:
            raise click.UsageError(f"{ENCRYPTION} is on or off, not {value!r}")
        set_encryption_by_default(home, on=_SWITCH[value])
    else:
        set_default_key(home, None if value == _NO_KEY else value)
    found = view_settings(home)

    def text() -> None:
        if name == ENCRYPTION:
            print(f"{ENCRYPTION} is {encryption_text(found)}")
        else:
            print(f"{KEY} is {found.default_kms_key or _NO_KEY}")
            if home.access.default_kms_key is not None:
                print("note: the profile names one itself, which goes before it")

    session.show(settings_document(found), text)


def encryption_text(view: "SettingsView") -> str:
    return "on" if view.encryption_by_default else "off"


def settings_document(view: "SettingsView") -> JsonValue:
    return {
        "Account": view.account,
        "Region": view.region,
        "EncryptionByDefault": view.encryption_by_default,
        "DefaultKmsKeyId": view.default_kms_key,
        "DefaultKmsKeySource": view.default_key_source.value,
    }
