"""The values that the KMS is about: callers, keys, key material, aliases. Pure.

The dataclasses that say so are also the bodies of catalogue items, as JSON: a new member needs a
default, a changed meaning needs a new catalogue version.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

ARN_PREFIX: Final = "arn:aws:kms"
DEFAULT_KEY_ALIAS: Final = "alias/volcrypt/ebs"
"""The service-managed key that protects volumes when no other is named."""
DEFAULT_KEY_SYNONYM: Final = "alias/aws/ebs"
DAY_SECONDS: Final = 86_400
HOME_KMS: Final = "home"
"""What the KMS of the home is called, among all whose keys the home uses."""


class KeyState(Enum):
    """UNAVAILABLE and PENDING_IMPORT may also follow from a key's store and material; see
    `lifecycle.current_state`."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"
    PENDING_DELETION = "PendingDeletion"
    PENDING_IMPORT = "PendingImport"
    UNAVAILABLE = "Unavailable"


class KeyOrigin(Enum):
    """Where the material comes from: the HSM, the customer, or a custom key store."""

    AWS_KMS = "AWS_KMS"
    EXTERNAL = "EXTERNAL"
    AWS_CLOUDHSM = "AWS_CLOUDHSM"


class KeyManager(Enum):
    """Who rules over a key: AWS is the name on the wire for `service managed`."""

    CUSTOMER = "CUSTOMER"
    AWS = "AWS"


class RotationType(Enum):
    """How a material became the current one."""

    AUTOMATIC = "AUTOMATIC"
    ON_DEMAND = "ON_DEMAND"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks. `via_service` comes from the class of the credential (volcrypt's own volume
    service), never from a request.

    `source_address` is an IP address where there is one (`aws:SourceIp`); `is_secure` is False for
    a request that came over a network without TLS (`aws:SecureTransport`); `user_agent` and
    `access_key_id` go to the audit log only.
    """

    arn: str
    account: str
    via_service: bool = False
    source_address: str = "localhost"
    user_agent: str = "volcrypt"
    access_key_id: str | None = None
    is_secure: bool = True

    @property
    def is_root(self) -> bool:
        return self.arn == root_arn(self.account)

    @property
    def is_host(self) -> bool:
        """Whether it is a host that serves volumes of the home, which has what grants give it. No
        access key is one's: only processes of the home ask as it."""
        return self.arn.startswith(host_arn(self.account, ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedMaterial:
    """Key material as it may lie on storage: AES key wrap with padding (RFC 5649), 40 bytes; in a
    custom key store AES key wrap without (RFC 3394).

    `wrapping_key` is the generation of the token's wrapping key that made it.
    """

    blob: bytes = field(repr=False)
    wrapping_key: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """When something is destroyed: both by the clock of the host (`date`, seconds since 1970) and
    by observed time (`observed_until`, seconds); see `clock`."""

    date: float
    observed_until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMaterial:
    """One version of a key's material; `material_id` is 64 lower-case hexadecimal digits.

    `wrapped` is None for imported material that was deleted, or has expired: its id stays, so that
    the same can be imported again. `rotated_at` and `rotation_type` are None for the first one,
    and for one that waits to be rotated to. `expiry` and `description` are of imported material.
    """

    material_id: str
    wrapped: WrappedMaterial | None
    created_at: float
    rotated_at: float | None = None
    rotation_type: RotationType | None = None
    expiry: Deadline | None = None
    description: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """Automatic rotation: every so many days, the next time at `next_at`."""

    period_days: int
    next_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KmsKey:
    """A KMS key: everything about it. Times are seconds since 1970-01-01 UTC.

    `materials` is oldest first; the last one encrypts, all of them decrypt; a key for imported
    material begins without any. `pending_material` was imported to be rotated to. `policy` is the
    text of the key policy document. `rotation` and `deletion` are None when there is none;
    `rotation` stays while the key is disabled or waits for its deletion, and does nothing.
    `policy_users` are the users that the policy names, by ARN, with their ids when it was put: a
    later user of the same name is another.
    """

    key_id: str
    account: str
    region: str
    created_at: float
    description: str
    state: KeyState
    manager: KeyManager
    origin: KeyOrigin
    policy: str
    materials: tuple[KeyMaterial, ...]
    tags: dict[str, str] = field(default_factory=dict)
    pending_material: KeyMaterial | None = None
    rotation: Rotation | None = None
    on_demand_rotations: int = 0
    deletion: Deadline | None = None
    custom_key_store_id: str | None = None
    policy_users: dict[str, str] = field(default_factory=dict)

    @property
    def arn(self) -> str:
        return key_arn(self.account, self.region, self.key_id)

    @property
    def current_material(self) -> KeyMaterial:
        """Only for a key that has some."""
        return self.materials[-1]

    def material(self, material_id: str) -> KeyMaterial | None:
        return next((m for m in self.materials if m.material_id == material_id), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """A name for a key; `name` begins with `alias/`."""

    name: str
    account: str
    region: str
    key_id: str
    created_at: float
    updated_at: float

    @property
    def arn(self) -> str:
        return alias_arn(self.account, self.region, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSettings:
    """How new volumes and copies are made, in one account and region.

    `default_kms_keys` are ARNs of keys by the name of their KMS; a KMS without one there uses what
    it has for volumes by itself, if that is anything.
    """

    encryption_by_default: bool = False
    default_kms_keys: dict[str, str] = field(default_factory=dict)


def root_arn(account: str) -> str:
    return f"arn:aws:iam::{account}:root"


def host_arn(account: str, host: str) -> str:
    """A session of a role that no user of the account can be given: its name has a colon."""
    return f"arn:aws:sts::{account}:assumed-role/volcrypt:host/{host}"


def key_arn(account: str, region: str, key_id: str) -> str:
    return f"{ARN_PREFIX}:{region}:{account}:key/{key_id}"


def alias_arn(account: str, region: str, name: str) -> str:
    return f"{ARN_PREFIX}:{region}:{account}:{name}"


def volume_service(region: str) -> str:
    """What `kms:ViaService` is for requests of volcrypt's volume service: EBS's name, so that
    policies written for EBS mean the same here."""
    return f"ec2.{region}.amazonaws.com"
