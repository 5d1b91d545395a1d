"""The documents of `--json`: which command prints which, and what is in it. In one place, for
`man`, which shows them, and for tests, which hold every output against them.

What a reader may rely on: members that are here are there, with these types, in this version of the
document, which is its member `Version`, or 1 where it has none. Others may come at any time. One
that goes, or means something else, makes a new version. `kms` and `principal` print what the AWS
operation of that name answers, which has no version: AWS adds members, and takes none away.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin

import msgspec

from volcrypt.cli.documents.encryption import Encryption, EncryptionPlan, Migration, PausedMigration
from volcrypt.cli.documents.home import (
    Backup,
    Completion,
    ConfigurationFile,
    DefaultSettings,
    Doctor,
    Init,
    Page,
    Restored,
    Started,
    Status,
)
from volcrypt.cli.documents.reports import AuditList, AuditVerification, EncryptionReport, KeyReport
from volcrypt.cli.documents.snapshots import (
    DeletedSnapshot,
    Difference,
    ExportedSnapshot,
    Snapshot,
    SnapshotOrSet,
    Snapshots,
    Verification,
)
from volcrypt.cli.documents.stores import Store, StoreChecks, StoreKey, Stores
from volcrypt.cli.documents.volumes import (
    Attached,
    Checked,
    DeletedVolume,
    ExportedHeader,
    ExportedVolume,
    Grown,
    ImportedVolume,
    Mounted,
    RegisteredVolume,
    Volume,
    VolumeId,
    VolumeOrSnapshotId,
    Volumes,
)
from volcrypt.settings import Settings


@dataclass(frozen=True, slots=True)
class Document:
    """`shape` of what a command prints, and its version; `others`: what it prints with an option,
    by that option."""

    shape: Any
    version: int = 1
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> tuple[Any, ...]:
        return (self.shape, *self.others.values())

    @property
    def schema(self) -> dict[str, Any]:
        """As JSON Schema."""
        references, definitions = msgspec.json.schema_components(self.shapes)
        either = {"anyOf": list(references)} if self.others else references[0]
        return {**either, "$defs": definitions}


DOCUMENTS = {
    "init": Document(Init),
    "status": Document(Status),
    "kms serve": Document(Started),
    "volume check": Document(Checked),
    "volume create": Document(Volume),
    "volume delete": Document(DeletedVolume),
    "volume export": Document(ExportedVolume),
    "volume export-header": Document(ExportedHeader),
    "volume grow": Document(Grown),
    "volume import": Document(ImportedVolume),
    "volume list": Document(Volumes),
    "volume register": Document(RegisteredVolume),
    "volume show": Document(Volume),
    "mount": Document(Mounted),
    "unmount": Document(VolumeOrSnapshotId),
    "attach": Document(Attached),
    "detach": Document(VolumeId),
    "store check": Document(StoreChecks),
    "store create": Document(Store),
    "store list": Document(Stores),
    "store public-key": Document(StoreKey),
    "store show": Document(Store),
    "store trust": Document(Store),
    "snapshot copy": Document(Snapshot),
    "snapshot create": Document(SnapshotOrSet),
    "snapshot delete": Document(DeletedSnapshot),
    "snapshot diff": Document(Difference),
    "snapshot export": Document(ExportedSnapshot),
    "snapshot list": Document(Snapshots),
    "snapshot show": Document(Snapshot),
    "snapshot verify": Document(Verification),
    "snapshot wait": Document(SnapshotOrSet),
    "encrypt": Document(
        Encryption,
        others={
            "--dry-run": EncryptionPlan,
            "--online": Migration,
            "--pause": PausedMigration,
            "--abort": VolumeId,
        },
    ),
    "rekey": Document(Migration),
    "settings get": Document(DefaultSettings),
    "settings set": Document(DefaultSettings),
    "report encryption": Document(EncryptionReport),
    "report key": Document(KeyReport),
    "backup": Document(Backup),
    "restore": Document(Restored),
    "config check": Document(ConfigurationFile),
    "config show": Document(Settings),
    "man": Document(Page),
    "completion": Document(Completion),
    "doctor": Document(Doctor),
    "audit list": Document(AuditList),
    "audit verify": Document(AuditVerification),
}
"""By command. Version 1 all of them: none has changed yet what it says."""


def as_aws(command: str) -> bool:
    """Whether the command answers as the AWS operation of its name does."""
    return command.startswith(("kms ", "principal ")) and command not in DOCUMENTS


def members(shape: Any, indent: str = "") -> Iterator[tuple[str, str]]:
    """Names and types for people, what is inside of a member below it."""
    for member in msgspec.structs.fields(shape) if _is_struct(shape) else ():
        absent = "" if member.required else ", may be absent"
        yield f"{indent}{member.encode_name}", _text(member.type) + absent
        for inner in _structs_in(member.type):
            yield from members(inner, indent + "  ")


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _structs_in(kind: Any) -> Iterator[Any]:
    for each in (kind, *get_args(kind)):
        if _is_struct(each):
            yield each


def _text(kind: Any) -> str:
    names = {bool: "boolean", int: "number", float: "number", str: "text", type(None): "null"}
    if _is_struct(kind):
        return "object"
    if get_origin(kind) is list:
        return f"list of {_text(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return f"object of {_text(get_args(kind)[1])}"
    if get_args(kind):
        return " or ".join(_text(each) for each in get_args(kind))
    return names.get(kind, "any")
