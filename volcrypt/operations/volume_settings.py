"""Settings for new volumes and copies: encryption by default, and the default key.

They belong to an account and region of the home, lie in its catalogue under the seal of that, and
are changed there alone, on record (`kms.volume_settings`): also for profiles whose keys are in
another KMS. What is set for encryption holds whichever KMS has the keys; the default key is one for
each KMS. Of which key serves where none is named:

    1  --kms-key-id
    2  default_kms_key of the profile
    3  the default key that is set here
    4  alias/volcrypt/ebs, the service-managed key; another KMS than the home's has none
"""

from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from volcrypt.errors import ConfigurationError
from volcrypt.kms.messages.volume_settings import (
    DisableEbsEncryptionByDefaultRequest,
    EnableEbsEncryptionByDefaultRequest,
    ModifyEbsDefaultKmsKeyIdRequest,
    ResetEbsDefaultKmsKeyIdRequest,
)
from volcrypt.names import NOBODYS_VOLUME
from volcrypt.operations.home import Home
from volcrypt.operations.keys import KeyChoice, resolve_key, try_key, volume_context
from volcrypt.operations.vault import Kms


class DefaultKeySource(Enum):
    """Who says which key is the default one."""

    PROFILE = "profile"
    SETTING = "setting"
    SERVICE = "service-managed"
    NOBODY = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsView:
    """The settings as they hold for a command. `default_kms_key` is None where none is said, and
    the KMS has none for volumes."""

    account: str
    region: str
    encryption_by_default: bool
    default_kms_key: str | None
    default_key_source: DefaultKeySource


def view_settings(home: Home) -> SettingsView:
    """What holds for the profile of the command; takes no permission."""
    settings = home.volume_settings()
    key: str | None = None
    with suppress(ConfigurationError):
        key = home.default_kms_key
    if home.access.default_kms_key is not None:
        source = DefaultKeySource.PROFILE
    elif home.access.kms_name in settings.default_kms_keys:
        source = DefaultKeySource.SETTING
    else:
        source = DefaultKeySource.NOBODY if key is None else DefaultKeySource.SERVICE
    return SettingsView(
        account=home.caller.account,
        region=home.settings_region,
        encryption_by_default=settings.encryption_by_default,
        default_kms_key=key,
        default_key_source=source,
    )


def set_encryption_by_default(home: Home, *, on: bool) -> None:
    """For volumes and copies that are made from now on. Raises AccessDeniedError."""
    request = EnableEbsEncryptionByDefaultRequest if on else DisableEbsEncryptionByDefaultRequest
    _own_kms(home).perform(home.caller, request())


def set_default_key(home: Home, key: str | None) -> str | None:
    """Make the key that an id, ARN or alias names the default one, and give its ARN; None takes
    back what is set. An alias is looked up now: what it names later does not matter.

    Raises KeyNotFoundError, KeyDisabledError, InvalidStateError, and AccessDeniedError also for a
    key that the caller may not use for volumes.
    """
    own = _own_kms(home)
    kms = None if home.access.other_kms is None else home.access.kms_name
    if key is None:
        own.perform(home.caller, ResetEbsDefaultKmsKeyIdRequest(kms=kms))
        return None
    arn = resolve_key(home, key)
    try_key(home, KeyChoice(kms_key=arn), volume_context(NOBODYS_VOLUME))
    own.perform(home.caller, ModifyEbsDefaultKmsKeyIdRequest(kms_key_id=arn, kms=kms))
    return arn


def _own_kms(home: Home) -> Kms:
    """The home's, of the account and region that the settings are for."""
    return home.vault.scope(home.caller.account, home.settings_region)
