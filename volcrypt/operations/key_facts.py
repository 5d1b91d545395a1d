"""What the KMS says of a key: its state, names and rotations, as far as the caller may know."""

from contextlib import suppress
from dataclasses import dataclass

from volcrypt.errors import AccessDeniedError, KeyNotFoundError, VolcryptError
from volcrypt.kms.messages.aliases import ListAliasesRequest
from volcrypt.kms.messages.keys import DescribeKeyRequest, KeyMetadata
from volcrypt.kms.messages.rotation import GetKeyRotationStatusRequest, ListKeyRotationsRequest
from volcrypt.operations.home import Home
from volcrypt.operations.key_states import NOT_FOUND
from volcrypt.operations.vault import Kms

_ARN_PARTS = 6
_ARN_REGION = 3
_MAX_ALIASES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFacts:
    """`state` is the KMS's word for it, `NotFound`, or None where it may not be known, and
    `problem` says why. Times are seconds since 1970. `rotation_days` is None without automatic
    rotation, and `last_rotation` where there was none; `knows_rotation` is False where neither can
    be told, or a key cannot be rotated."""

    arn: str
    state: str | None = None
    problem: str | None = None
    aliases: tuple[str, ...] = ()
    manager: str | None = None
    origin: str | None = None
    created_at: float | None = None
    deletion_date: float | None = None
    valid_to: float | None = None
    knows_rotation: bool = False
    rotation_days: int | None = None
    last_rotation: float | None = None


def kms_of(home: Home, key: str) -> Kms:
    """Where to ask for a key: in its own region, if it is an ARN of one that the home serves."""
    parts = key.split(":")
    if home.access.other_kms is not None or len(parts) != _ARN_PARTS:
        return home.kms
    region = parts[_ARN_REGION]
    if region in {home.region, *home.access.served_regions}:
        return home.vault.scope(home.caller.account, region)
    return home.kms


def key_facts(home: Home, arn: str) -> KeyFacts:
    """Never fails: what cannot be known is left open."""
    kms = kms_of(home, arn)
    try:
        metadata = kms.perform(home.volume_service, DescribeKeyRequest(key_id=arn)).key_metadata
    except AccessDeniedError:
        return KeyFacts(arn=arn, problem="you may not describe it, or it is of another account")
    except KeyNotFoundError:
        return KeyFacts(arn=arn, state=NOT_FOUND)
    except VolcryptError as error:
        return KeyFacts(arn=arn, problem=str(error))
    return _facts(home, kms, metadata)


def _facts(home: Home, kms: Kms, metadata: KeyMetadata) -> KeyFacts:
    arn = metadata.arn
    days: int | None = None
    last: float | None = None
    knows_rotation = False
    with suppress(VolcryptError):
        rotations = kms.perform(home.caller, ListKeyRotationsRequest(key_id=arn, limit=1000))
        dates = [entry.rotation_date for entry in rotations.rotations if entry.rotation_date]
        last = max(dates, default=None)
        knows_rotation = True
    with suppress(VolcryptError):  # there is none for imported material
        status = kms.perform(home.caller, GetKeyRotationStatusRequest(key_id=arn))
        days = status.rotation_period_in_days if status.key_rotation_enabled else None
    return KeyFacts(
        arn=arn,
        state=metadata.key_state,
        aliases=key_aliases(home, kms, arn),
        manager=metadata.key_manager,
        origin=metadata.origin,
        created_at=metadata.creation_date,
        deletion_date=metadata.deletion_date,
        valid_to=metadata.valid_to,
        knows_rotation=knows_rotation,
        rotation_days=days,
        last_rotation=last,
    )


def key_aliases(home: Home, kms: Kms, arn: str) -> tuple[str, ...]:
    """The names of a key; none where they may not be known."""
    with suppress(VolcryptError):
        request = ListAliasesRequest(key_id=arn, limit=_MAX_ALIASES)
        return tuple(alias.alias_name for alias in kms.perform(home.caller, request).aliases)
    return ()
