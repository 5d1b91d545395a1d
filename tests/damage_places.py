"""Every kind of file of a home and its stores, what reads it, and what comes of damage to it.

A damage is refused by name, or does no harm (all commands work, and every byte that they give is
right), or is *unseen*: those are what the formats do not promise to detect, and all are listed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Final

ACTIONS: Final = ("flip", "cut", "delete", "swap", "older")
HARMLESS: Final = "harmless"
UNSEEN: Final = "unseen"

Probe = tuple[str, ...]
"""A command; `{secret}` is the id of the volume of this name, `{out}` a file for an export."""


def export(volume: str) -> Probe:
    return ("volume", "export", "--yes", volume, "{out}")


EXPORT_SNAPSHOT: Final[Probe] = ("snapshot", "export", "--yes", "first", "{out}")
AGAIN: Final[tuple[Probe, ...]] = (
    ("snapshot", "create", "--wait", "secret", "--name", "later"),
    ("volume", "create", "--snapshot-id", "later", "--name", "restored"),
    export("restored"),
)
"""An incremental snapshot has everything that was written."""
IMPORT: Final[Probe] = ("volume", "import", "{image}", "--name", "imported")
STALE: Final = "not the current version|missing on disk"
BROKEN: Final = "truncated or damaged|does not parse|seal does not hold|not a volcrypt document"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A kind of file. `damaged` are all that have to be damaged for it to matter; the last of the
    files that match each. `outcome` is of all actions that `actions` says nothing else of:
    HARMLESS, UNSEEN, or what the error says, behind its exit code where that is not 6."""

    patterns: tuple[str, ...]
    damaged: tuple[str, ...] = ()
    probes: tuple[Probe, ...]
    outcome: str
    actions: Mapping[str, str] = field(default_factory=dict)
    content: str = ""
    """The volume whose plaintext the last of the probes gives."""
    near: bytes = b""
    """A bit is flipped behind these bytes, wherever they are; else in the middle."""

    def holds(self, path: str) -> bool:
        return any(fnmatch(path, pattern) for pattern in self.patterns)


_VOLUME: Final = "home/volumes/*/"
_LOCAL: Final = "home/stores/local/"
_SECRET: Final = (export("secret"),)

PLACES: Final[dict[str, Place]] = {
    # What the home is
    "home": Place(
        patterns=("home/home",),
        probes=_SECRET,
        outcome="truncated or damaged",
        # It says which home this is, and nothing is believed because of it.
        actions={"flip": HARMLESS, "delete": "3: no volcrypt home at", "swap": HARMLESS},
        content="secret",
    ),
    "lock": Place(
        patterns=(
            "home/lock",
            "home/jobs/lock",
            "home/kms/lock",
            "home/kms/serving",
            "home/stores/*.lock",
            "home/stores/*.use",
        ),
        probes=(IMPORT, export("secret")),
        outcome=HARMLESS,  # locked, never read
        content="secret",
    ),
    # Keys
    "PIN": Place(
        patterns=("home/kms/pin",),
        probes=_SECRET,
        outcome="5: the PIN does not open the token",
        actions={"delete": "1: the PIN of the token is not kept in this home"},
    ),
    "token master": Place(
        patterns=("home/kms/token/master",),
        probes=_SECRET,
        outcome=f"token .*({BROKEN}|missing on disk)",
        actions={"swap": "5: the PIN does not open the token"},
    ),
    "catalogue": Place(
        patterns=("home/kms/catalog.sqlite3",),
        probes=_SECRET,
        outcome=f"catalogue .*({BROKEN}|{STALE}|damaged)",
        actions={"cut": HARMLESS},  # SQLite reads what is missing of the last page as zeros
        content="secret",
        near=b'"counter"',
    ),
    "catalogue's journal": Place(
        patterns=("home/kms/catalog.sqlite3-journal",),
        probes=_SECRET,
        outcome=HARMLESS,  # of finished transactions
        content="secret",
    ),
    "audit log": Place(
        patterns=("home/kms/audit/audit-*.jsonl",),
        probes=(("audit", "verify"),),
        outcome="audit",
    ),
    "audit head": Place(
        patterns=("home/kms/audit/head",),
        probes=(("audit", "verify"),),
        outcome=f"audit (head|log) .*({BROKEN}|{STALE}|bytes, not)",
        near=b'"sequence"',
    ),
    # Volumes
    "record": Place(
        patterns=(f"{_VOLUME}record", f"{_VOLUME}record.next"),
        damaged=("home/volumes/{secret}/record", "home/volumes/{secret}/record.spare"),
        probes=_SECRET,
        outcome=f"the record of .*({STALE})",
    ),
    "record alone": Place(
        patterns=(f"{_VOLUME}record",),
        damaged=("home/volumes/{secret}/record",),
        probes=_SECRET,
        outcome=HARMLESS,  # put back from its spare
        content="secret",
    ),
    "spare record": Place(
        patterns=(f"{_VOLUME}record.spare",),
        damaged=("home/volumes/{secret}/record.spare",),
        probes=_SECRET,
        outcome=HARMLESS,
        content="secret",
    ),
    "record copy": Place(
        patterns=("leased.volcrypt",),
        probes=(export("leased"),),
        outcome=HARMLESS,  # written anew; whoever registers by it has its own seal to check
        content="leased",
    ),
    "data": Place(
        patterns=(f"{_VOLUME}data", "leased"),
        damaged=("home/volumes/{secret}/data",),
        probes=_SECRET,
        outcome="data file .*(bytes, the volume's record says|missing on disk)",
        # XTS has no integrity: see test_what_xts_does_not_see.
        actions={"flip": UNSEEN, "older": "bytes, the volume's record says", "swap": "bytes"},
        content="secret",
    ),
    "change map": Place(
        patterns=(f"{_VOLUME}change-map",),
        damaged=("home/volumes/{secret}/change-map",),
        probes=AGAIN,
        outcome=HARMLESS,  # not believed: all of the volume is read
        content="secret",
    ),
    "owner": Place(
        patterns=(f"{_VOLUME}owner",),
        damaged=("home/volumes/{secret}/owner",),
        probes=_SECRET,
        outcome=HARMLESS,  # the lock on it decides; of whom it tells is gone
        actions={"flip": "owner record of vol-.*(not a volcrypt|parse|damaged)"},
        content="secret",
    ),
    "present map": Place(
        patterns=(f"{_VOLUME}present",),
        damaged=("home/volumes/{lazy}/present",),
        probes=(export("lazy"),),
        outcome="present map of volume",
        # As an older state of the data file, of which it is a part.
        actions={"older": UNSEEN},
        content="lazy",
    ),
    "grant note": Place(
        patterns=(f"{_VOLUME}grant",),
        damaged=("home/volumes/{other}/grant",),
        probes=(("volume", "list"), export("other")),
        outcome=HARMLESS,  # the next mount finds the grant by its name
        content="other",
    ),
    "lease note": Place(
        patterns=(f"{_VOLUME}lease",),
        damaged=("home/volumes/{leased}/lease",),
        probes=(("volume", "list"), export("leased")),
        outcome=HARMLESS,  # the lease in the store decides
        content="leased",
    ),
    "write count": Place(
        patterns=("home/written/dk-*",),
        probes=(("status",), export("secret")),
        outcome=HARMLESS,  # counts as used up where it is damaged, which warns
        content="secret",
    ),
    # Work in progress
    "job": Place(
        patterns=("home/jobs/snap-*",),
        probes=(("snapshot", "list"), ("status",)),
        outcome=HARMLESS,  # nothing is believed because of it
    ),
    "workflow": Place(
        patterns=("home/work/vol-?????????????????", "home/work/vol-?????????????????.next"),
        damaged=("home/work/{plain}", "home/work/{plain}.next"),
        probes=(("encrypt", "plain"),),
        outcome=f"workflow .*({STALE})|encryption .*({STALE})",
    ),
    "copy cursor": Place(
        patterns=("home/work/snap-*.copy",),
        probes=(("encrypt", "plain"), export("plain")),
        outcome=f"cursor snap-.*copy: .*({BROKEN})",
        actions={"delete": HARMLESS, "older": HARMLESS},  # more is copied again
        content="plain",
    ),
    "import cursor": Place(
        patterns=("home/work/*.import", "home/work/*.import.next"),
        damaged=("home/work/*.import", "home/work/*.import.next"),
        probes=(IMPORT,),
        outcome=f"import .*({STALE})",
    ),
    "import log": Place(
        patterns=("home/work/*.import-log",),
        probes=(IMPORT,),
        outcome="log of the import into volume",
    ),
    # Snapshot stores
    "store place": Place(
        patterns=("home/stores/*.place",),
        probes=(("snapshot", "verify", "copied"),),
        outcome=f"place of snapshot store shared.*({BROKEN}|missing on disk)",
    ),
    "store document": Place(
        patterns=("*/store", "shared/store"),
        damaged=(f"{_LOCAL}store",),
        probes=(EXPORT_SNAPSHOT,),
        outcome=f"snapshot store .*local.*({BROKEN})",
        actions={"delete": "3: does not exist"},
    ),
    "certificate": Place(
        patterns=("*/certificates/*",),
        damaged=(f"{_LOCAL}certificates/*",),
        probes=(EXPORT_SNAPSHOT,),
        outcome=f"signer .*({BROKEN}|no certificate)",
    ),
    "manifest": Place(
        patterns=("*/manifests/*",),
        damaged=(f"{_LOCAL}manifests/{{first}}.*",),
        probes=(EXPORT_SNAPSHOT,),
        outcome=f"manifest of snapshot .*({BROKEN})",
        actions={"delete": "3: snapshot first does not exist"},  # `verify` says that it is missing
    ),
    "tombstone": Place(
        patterns=("*/tombstones/*",),
        damaged=(f"{_LOCAL}tombstones/*",),
        probes=(("snapshot", "verify"),),
        outcome="tombstone of snapshot snap-|entries . to . of the log of signer",
    ),
    "chunk": Place(
        patterns=("*/chunks/*/*",),
        damaged=(f"{_LOCAL}chunks/*/{{chunk}}",),
        probes=(EXPORT_SNAPSHOT,),
        outcome="chunk . of snapshot snap-",
    ),
    "page": Place(
        patterns=("*/pages/*/*",),
        damaged=(f"{_LOCAL}pages/*/{{page}}",),
        probes=(EXPORT_SNAPSHOT,),
        outcome="page . of snapshot snap-",
    ),
    "table": Place(
        patterns=("*/pages/*/*",),
        damaged=(f"{_LOCAL}pages/*/{{table}}",),
        probes=(EXPORT_SNAPSHOT,),
        outcome="table of snapshot snap-",
    ),
    "pin": Place(
        patterns=(f"{_LOCAL}pins/snap-?????????????????",),
        damaged=(f"{_LOCAL}pins/{{copying}}", f"{_LOCAL}pins/{{killed}}"),
        probes=(("encrypt", "plain"), export("plain")),
        outcome=HARMLESS,  # who makes the snapshot has it again, or starts over
        content="plain",
    ),
    "hold": Place(
        patterns=(f"{_LOCAL}pins/snap-*.hold",),
        damaged=(f"{_LOCAL}pins/{{copying}}.hold", f"{_LOCAL}pins/{{killed}}.hold"),
        probes=(("encrypt", "plain"), export("plain")),
        outcome=HARMLESS,
        content="plain",
    ),
    "lasting pin": Place(
        patterns=("shared/pins/vol-*",),
        probes=(("snapshot", "delete", "copied"), export("lazy")),
        outcome=HARMLESS,
        content="lazy",
    ),
    "lease": Place(
        patterns=("shared/leases/*/????????", "shared/leases/*/*.released"),
        damaged=("shared/leases/{leased}/00000002",),
        probes=(export("leased"),),
        outcome="lease",
        content="leased",
    ),
}

ELSEWHERE: Final[dict[str, str]] = {
    "backup": "operations/test_backups.py::test_a_wrong_passphrase_and_damage_leave_nothing",
    "LUKS2 header": "formats/test_luks2.py::test_every_damage_is_found",
    "registered record copy": "e2e/test_register.py::test_a_damaged_copy_is_told_and_mended",
    "sweep": "formats/test_store.py::test_every_changed_byte_of_a_document_is_refused",
    "migration": "formats/test_migration.py::test_every_cut_and_every_flipped_bit_is_noticed",
    "write intents": "volume/test_write_intents.py::test_doubt_sets_bits",
    "configuration": "test_settings.py::test_what_is_refused_is_named",
    "probe": "snapshot/test_s3_faults.py::test_a_place_that_cannot_hold_a_store",
}
"""Kinds of file that are in the home of these tests at no moment, and what damages them."""

FORMATS: Final[dict[str, str]] = {
    "audit_head": "audit head",
    "audit_record": "audit log",
    "backup": "backup",
    "bit_sectors": "write intents",
    "certificate": "certificate",
    "change_map": "change map",
    "ciphertext_blob": "catalogue",
    "condemned": "sweep",
    "copy_cursor": "copy cursor",
    "document": "record",
    "import_cursor": "import cursor",
    "import_log": "import log",
    "import_token": "catalogue",
    "job": "job",
    "lease": "lease",
    "luks2": "LUKS2 header",
    "manifest": "manifest",
    "migration": "migration",
    "pages": "page",
    "pin": "pin",
    "present_map": "present map",
    "record_copy": "record copy",
    "sealed_secret": "catalogue",
    "store": "store document",
    "store_place": "store place",
    "token_image": "token master",
    "toml_lines": "configuration",
    "tombstone": "tombstone",
    "volume_record": "record",
    "workflow": "workflow",
    "write_count": "write count",
    "write_intents": "write intents",
}
"""By module of `volcrypt.formats`."""

LAYOUT: Final[dict[str, str]] = {
    "store": "store document",
    "manifests/": "manifest",
    "tombstones/": "tombstone",
    "chunks/": "chunk",
    "pages/": "page",
    "pins/": "pin",
    "condemned/": "sweep",
    "sweeping": "sweep",
    "probes/": "probe",
    "records/": "registered record copy",
    "leases/": "lease",
}
"""By what `snapshot.layout` calls it."""
