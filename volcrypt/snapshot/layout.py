"""Names of the objects in a snapshot store. Pure.

    store                                          the store document
    certificates/SIGNER                            signed by the store's root
    manifests/SNAPSHOT.SEQUENCE.SIGNER             presence is `completed`
    tombstones/SNAPSHOT.SEQUENCE.SIGNER.DELETED-SEQUENCE.DELETED-SIGNER
    chunks/XX/DIGEST, pages/XX/DIGEST              XX: first two digits; tables lie with the pages
    pins/SNAPSHOT                                  a snapshot on its way in, and what it stands on
    pins/SNAPSHOT.hold                             nobody has taken that pin for dead
    pins/VOLUME                                    a lazy volume, or a mounted snapshot
    condemned/NUMBER, sweeping                     a sweep on its way
    probes/NUMBER                                  somebody tries whether this can be a store
    records/VOLUME                                 second copy of a volume's record
    leases/VOLUME/EPOCH, .../EPOCH.released        who may open a volume (`snapshot.lease`)

Names of log entries carry their place in the log, so that a listing tells which numbers are there
and one object is read instead of all. A listing is not to be believed: whoever reads an entry
checks that it says the same as its name. SEQUENCE has ten digits, so that names sort.
"""

from dataclasses import dataclass
from typing import Final

from volcrypt.formats.certificate import SignerId
from volcrypt.names import SnapshotId, VolumeId, is_volume_id

STORE: Final = "store"
MANIFESTS: Final = "manifests/"
TOMBSTONES: Final = "tombstones/"
CHUNKS: Final = "chunks/"
PAGES: Final = "pages/"
PINS: Final = "pins/"
CONDEMNED: Final = "condemned/"
SWEEPING: Final = "sweeping"
PROBES: Final = "probes/"
RECORDS: Final = "records/"
LEASES: Final = "leases/"
_RELEASED: Final = ".released"
_HOLD: Final = ".hold"


def certificate_name(signer: SignerId) -> str:
    return f"certificates/{signer}"


def chunk_name(digest: bytes) -> str:
    return f"{CHUNKS}{digest[:1].hex()}/{digest.hex()}"


def page_name(digest: bytes) -> str:
    return f"{PAGES}{digest[:1].hex()}/{digest.hex()}"


def digest_in_name(name: str) -> bytes | None:
    """The digest in the name of a chunk or page; None for anything else that lies there."""
    try:
        digest = bytes.fromhex(name.rpartition("/")[2])
    except ValueError:
        return None
    return digest if name in (chunk_name(digest), page_name(digest)) else None


def pin_name(snapshot: SnapshotId) -> str:
    return f"{PINS}{snapshot}"


def hold_name(snapshot: SnapshotId) -> str:
    return f"{PINS}{snapshot}{_HOLD}"


def pinned_snapshot(name: str) -> SnapshotId | None:
    """Whose pin, or hold, has this name; None for a lasting pin."""
    text = name.removeprefix(PINS)
    return None if is_volume_id(text) else SnapshotId(text.removesuffix(_HOLD))


def lasting_pin_name(volume: VolumeId) -> str:
    return f"{PINS}{volume}"


def pinning_volume(name: str) -> VolumeId | None:
    """Whose lasting pin has this name; None for any other name."""
    text = name.removeprefix(PINS)
    return VolumeId(text) if is_volume_id(text) else None


def condemned_name(number: int) -> str:
    return f"{CONDEMNED}{number:010d}"


@dataclass(frozen=True, slots=True, order=True)
class LogPlace:
    """One place in one signer's log."""

    signer: SignerId
    sequence: int


@dataclass(frozen=True, slots=True)
class EntryName:
    """The name of a manifest, or of a tombstone when `deleted` is given."""

    snapshot_id: SnapshotId
    place: LogPlace
    deleted: LogPlace | None = None

    @property
    def text(self) -> str:
        text = f"{self.snapshot_id}.{self.place.sequence:010d}.{self.place.signer}"
        if self.deleted is None:
            return f"{MANIFESTS}{text}"
        return f"{TOMBSTONES}{text}.{self.deleted.sequence:010d}.{self.deleted.signer}"


def parse_entry_name(name: str) -> EntryName | None:
    """None for a name that no entry has."""
    words = name.rpartition("/")[2].split(".")
    try:
        places = [
            LogPlace(SignerId(words[i + 1]), int(words[i])) for i in range(1, len(words) - 1, 2)
        ]
        entry = EntryName(SnapshotId(words[0]), *places)
    except (ValueError, TypeError):
        return None
    return entry if entry.text == name else None


def record_name(volume: VolumeId) -> str:
    return f"{RECORDS}{volume}"


def lease_prefix(volume: VolumeId) -> str:
    return f"{LEASES}{volume}/"


def lease_name(volume: VolumeId, epoch: int) -> str:
    return f"{lease_prefix(volume)}{epoch:08d}"


def lease_release_name(volume: VolumeId, epoch: int) -> str:
    return lease_name(volume, epoch) + _RELEASED


@dataclass(frozen=True, slots=True)
class LeaseName:
    """The name of a lease, or of its release."""

    epoch: int
    is_release: bool


def parse_lease_name(volume: VolumeId, name: str) -> LeaseName | None:
    """None for a name that no lease of this volume has."""
    is_release = name.endswith(_RELEASED)
    digits = name.removesuffix(_RELEASED).rpartition("/")[2]
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        return None
    expected = lease_release_name if is_release else lease_name
    return LeaseName(int(digits), is_release) if expected(volume, int(digits)) == name else None
