"""Settings for new volumes as items of the catalogue, and the operations that change them.

    volume-settings    id = ACCOUNT/REGION    body = VolumeSettings

Reading takes no permission and leaves no record, since every command that makes a volume does it.
A change takes the permission of its name, such as `volcrypt:EnableEbsEncryptionByDefault`, and is
on the audit log before it is made.
"""

from dataclasses import replace
from typing import Final

import msgspec

from volcrypt.kms.attempt import Attempt, Effect
from volcrypt.kms.lifecycle import check_state
from volcrypt.kms.messages.volume_settings import (
    DefaultKmsKeyResponse,
    DisableEbsEncryptionByDefaultRequest,
    EnableEbsEncryptionByDefaultRequest,
    EncryptionByDefaultResponse,
    ModifyEbsDefaultKmsKeyIdRequest,
    ResetEbsDefaultKmsKeyIdRequest,
)
from volcrypt.kms.model import HOME_KMS, VolumeSettings
from volcrypt.kms.scope import Scope
from volcrypt.kms.sealing import Item
from volcrypt.kms.view import Change, View

SETTINGS: Final = "volume-settings"
ACTIONS: Final = "volcrypt"
"""The service of the actions."""
_USE: Final = "GenerateDataKeyWithoutPlaintext"


class VolumeSettingsOperations(Scope):
    """Requests raise the errors of the AWS KMS; see the module `service`."""

    def volume_settings(self, account: str, region: str) -> VolumeSettings:
        """Of any account and region of the home. Raises SealError."""
        with self._catalog.reading() as view:
            return _settings(view, account, region)

    def enable_ebs_encryption_by_default(
        self, attempt: Attempt, request: EnableEbsEncryptionByDefaultRequest
    ) -> Effect[EncryptionByDefaultResponse]:
        return self._set_encryption(attempt, on=True)

    def disable_ebs_encryption_by_default(
        self, attempt: Attempt, request: DisableEbsEncryptionByDefaultRequest
    ) -> Effect[EncryptionByDefaultResponse]:
        return self._set_encryption(attempt, on=False)

    def modify_ebs_default_kms_key_id(
        self, attempt: Attempt, request: ModifyEbsDefaultKmsKeyIdRequest
    ) -> Effect[DefaultKmsKeyResponse]:
        attempt.authorise_account(attempt.operation, service=ACTIONS)
        arn = request.kms_key_id
        if request.kms is None:
            key = self._find_key(attempt, arn)
            attempt.concern(key)
            check_state(_USE, arn=key.arn, state=attempt.state_of(key), origin=key.origin)
            arn = key.arn
        return self._set_default_key(attempt, request.kms or HOME_KMS, arn)

    def reset_ebs_default_kms_key_id(
        self, attempt: Attempt, request: ResetEbsDefaultKmsKeyIdRequest
    ) -> Effect[DefaultKmsKeyResponse]:
        attempt.authorise_account(attempt.operation, service=ACTIONS)
        return self._set_default_key(attempt, request.kms or HOME_KMS, None)

    def _set_encryption(self, attempt: Attempt, *, on: bool) -> Effect[EncryptionByDefaultResponse]:
        attempt.authorise_account(attempt.operation, service=ACTIONS)
        attempt.response_elements = {"ebsEncryptionByDefault": on}
        settings = _settings(attempt.change, self._account, self._region)
        changed = replace(settings, encryption_by_default=on)
        return Effect(
            change=lambda change: self._put(change, changed),
            act=lambda: EncryptionByDefaultResponse(ebs_encryption_by_default=on),
        )

    def _set_default_key(
        self, attempt: Attempt, kms: str, arn: str | None
    ) -> Effect[DefaultKmsKeyResponse]:
        attempt.response_elements = None if arn is None else {"kmsKeyId": arn}
        settings = _settings(attempt.change, self._account, self._region)
        keys = {name: key for name, key in settings.default_kms_keys.items() if name != kms}
        if arn is not None:
            keys[kms] = arn
        changed = replace(settings, default_kms_keys=keys)
        return Effect(
            change=lambda change: self._put(change, changed),
            act=lambda: DefaultKmsKeyResponse(kms_key_id=arn),
        )

    def _put(self, change: Change, settings: VolumeSettings) -> None:
        id_ = _id(self._account, self._region)
        change.put(Item(kind=SETTINGS, id=id_, body=msgspec.json.encode(settings)))


def _settings(view: View, account: str, region: str) -> VolumeSettings:
    item = view.get(SETTINGS, _id(account, region))
    return VolumeSettings() if item is None else item.decoded(VolumeSettings)


def _id(account: str, region: str) -> str:
    return f"{account}/{region}"
