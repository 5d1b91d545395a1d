"""Messages of the settings for new volumes, per account and region: those of EBS. Pure.

They are no operations of the KMS protocol, and their names, members and event source are those of
EC2, so that whoever watches an audit log for them there finds them here. `Kms` is ours: the default
key is one for each KMS whose keys the home uses; the home's own is not named.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final

from volcrypt.kms.messages.base import A, Operation, Request, Response
from volcrypt.kms.messages.limits import Limits

_LIMITS: Final = MappingProxyType(
    {
        "kms_key_id": Limits(minimum=1, maximum=2048),
        "kms": Limits(minimum=1, maximum=1024),
    }
)


class VolumeSettingsRequest(Request[A], frozen=True, kw_only=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = _LIMITS
    EVENT_SOURCE: ClassVar[str] = "ec2.amazonaws.com"


class EncryptionByDefaultResponse(Response, frozen=True, kw_only=True):
    ebs_encryption_by_default: bool


class EnableEbsEncryptionByDefaultRequest(
    VolumeSettingsRequest[EncryptionByDefaultResponse], frozen=True, kw_only=True
):
    pass


class DisableEbsEncryptionByDefaultRequest(
    VolumeSettingsRequest[EncryptionByDefaultResponse], frozen=True, kw_only=True
):
    pass


class DefaultKmsKeyResponse(Response, frozen=True, kw_only=True):
    """Without a key: none is set, and the service-managed one serves where there is one."""

    kms_key_id: str | None = None


class ModifyEbsDefaultKmsKeyIdRequest(
    VolumeSettingsRequest[DefaultKmsKeyResponse], frozen=True, kw_only=True
):
    """`kms` is another KMS, whose keys nobody here can look at: then the key is an ARN."""

    kms_key_id: str
    kms: str | None = None


class ResetEbsDefaultKmsKeyIdRequest(
    VolumeSettingsRequest[DefaultKmsKeyResponse], frozen=True, kw_only=True
):
    kms: str | None = None


VOLUME_SETTINGS_OPERATIONS: Final = MappingProxyType(
    {
        "EnableEbsEncryptionByDefault": Operation(EnableEbsEncryptionByDefaultRequest, False),
        "DisableEbsEncryptionByDefault": Operation(DisableEbsEncryptionByDefaultRequest, False),
        "ModifyEbsDefaultKmsKeyId": Operation(ModifyEbsDefaultKmsKeyIdRequest, False),
        "ResetEbsDefaultKmsKeyId": Operation(ResetEbsDefaultKmsKeyIdRequest, False),
    }
)
