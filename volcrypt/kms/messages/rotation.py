"""Messages of the operations on the rotation of key material. Pure."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final

from volcrypt.kms.messages.base import (
    EmptyResponse,
    Message,
    Operation,
    PagedRequest,
    Request,
    Response,
)
from volcrypt.kms.messages.limits import Limits

ALL_KEY_MATERIAL: Final = "ALL_KEY_MATERIAL"
ROTATIONS_ONLY: Final = "ROTATIONS_ONLY"


class EnableKeyRotationRequest(Request[EmptyResponse], frozen=True, kw_only=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = MappingProxyType(
        {"rotation_period_in_days": Limits(minimum=90, maximum=2560)}
    )

    key_id: str
    rotation_period_in_days: int = 365


class DisableKeyRotationRequest(Request[EmptyResponse], frozen=True, kw_only=True):
    key_id: str


class GetKeyRotationStatusResponse(Response, frozen=True, kw_only=True):
    """`on_demand_rotation_start_date` is there while a rotation on demand is under way; here it is
    done when it is answered."""

    key_id: str
    key_rotation_enabled: bool
    rotation_period_in_days: int | None = None
    next_rotation_date: float | None = None
    on_demand_rotation_start_date: float | None = None


class GetKeyRotationStatusRequest(Request[GetKeyRotationStatusResponse], frozen=True, kw_only=True):
    key_id: str


class RotateKeyOnDemandResponse(Response, frozen=True, kw_only=True):
    key_id: str


class RotateKeyOnDemandRequest(Request[RotateKeyOnDemandResponse], frozen=True, kw_only=True):
    key_id: str


class RotationsListEntry(Message, frozen=True, kw_only=True, omit_defaults=True):
    """One key material. Import state, expiry and description are of imported ones only; date and
    type of those that were rotated to."""

    key_id: str
    key_material_id: str
    key_material_state: str
    key_material_description: str | None = None
    import_state: str | None = None
    expiration_model: str | None = None
    valid_to: float | None = None
    rotation_date: float | None = None
    rotation_type: str | None = None


class ListKeyRotationsResponse(Response, frozen=True, kw_only=True):
    rotations: list[RotationsListEntry]
    truncated: bool
    next_marker: str | None = None


class ListKeyRotationsRequest(PagedRequest[ListKeyRotationsResponse], frozen=True, kw_only=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = MappingProxyType(
        {"include_key_material": Limits(choices=(ALL_KEY_MATERIAL, ROTATIONS_ONLY))}
    )

    key_id: str
    include_key_material: str = ROTATIONS_ONLY


ROTATION_OPERATIONS: Final = MappingProxyType(
    {
        "EnableKeyRotation": Operation(EnableKeyRotationRequest, False),
        "DisableKeyRotation": Operation(DisableKeyRotationRequest, False),
        "GetKeyRotationStatus": Operation(GetKeyRotationStatusRequest, True),
        "RotateKeyOnDemand": Operation(RotateKeyOnDemandRequest, False),
        "ListKeyRotations": Operation(ListKeyRotationsRequest, True),
    }
)
