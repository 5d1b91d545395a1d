"""Every constant of the code that stored bytes begin with or depend on, and what shows that today's
code still reads what was written under it. `test_golden.py` compares this with the code.

A format is changed by a new version, with golden bytes of its own, and the old version stays
readable: a number here goes up, nothing is ever taken away.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import volcrypt

_CODE: Final = Path(volcrypt.__file__).parent
_NAMES: Final = re.compile(r"_?([A-Z]+_)*(VERSION|MAGIC|KIND)")
_WORTH_PARSING: Final = re.compile(rb"VERSION|MAGIC|KIND|\"volcrypt ")
_NUMBERED: Final = re.compile(r"volcrypt [a-z][a-z -]* \d+")

Value = int | str | bytes


@dataclass(frozen=True)
class Versions:
    """All versions that were released: `first` to `last`, each with these files in golden/vN."""

    files: tuple[str, ...]
    last: int = 1
    first: int = 1


def _of(*files: str) -> Versions:
    return Versions(files)


VERSIONS: Final[dict[str, Versions]] = {
    "formats.audit_head.VERSION": _of("audit-head"),
    "formats.audit_record.FORMAT_VERSION": _of("audit-record"),
    "formats.backup.VERSION": _of("backup"),
    "formats.certificate.VERSION": _of("snapshot/certificate"),
    "formats.change_map.VERSION": _of("change-map"),
    "formats.ciphertext_blob.VERSION": _of("ciphertext-blob"),
    "formats.condemned.VERSION": _of("snapshot/condemned", "snapshot/sweeping"),
    "formats.copy_cursor.VERSION": _of("snapshot/copy"),
    "formats.import_cursor.VERSION": _of("import", "import-log"),
    "formats.import_token.VERSION": _of("import-token"),
    "formats.job._VERSION": _of("job", "job-copy"),
    "formats.lease.VERSION": _of("snapshot/lease", "snapshot/lease-release"),
    "formats.manifest.VERSION": _of("snapshot/manifest"),
    "formats.migration.VERSION": _of("migration", "migration-before-figures"),
    "formats.pages.VERSION": _of("snapshot/page", "snapshot/table"),
    "formats.pin.VERSION": _of("snapshot/pin"),
    "formats.present_map.VERSION": _of("present-map"),
    "formats.record_copy.VERSION": _of("snapshot/volume-copy"),
    "formats.sealed_secret.VERSION": _of("sealed-secret"),
    "formats.store.VERSION": _of("snapshot/store"),
    "formats.store_place.VERSION": _of("snapshot/store-place"),
    "formats.token_image.VERSION": _of("token-image"),
    "formats.tombstone.VERSION": _of("snapshot/tombstone"),
    "formats.volume_record.VERSION": _of(
        "volume-record-customer", "volume-record-kms", "volume-record-lazy", "volume-record-none"
    ),
    "formats.workflow.VERSION": _of("workflow"),
    "formats.write_count.VERSION": _of("write-count"),
    "formats.write_intents.VERSION": _of("write-intents"),
    "kms.context._VERSION": _of("encryption-context"),
    "kms.database.VERSION": Versions(("catalogue", "catalogue-seal"), last=2, first=2),
    "kms.grants._TOKEN_VERSION": _of("grant-token"),
    "operations.home_directory.VERSION": _of("home"),
    "volume.kept_mount.VERSION": _of("kept-mount"),
}

WITHOUT_VERSION: Final = {
    "catalogue-item": "under the MAC of an item; its label has the number",
    "luks2-header": "a format of others",
    "mount-grant": "believed by nobody, and made anew",
    "owner": "its magic has the number",
}
"""Golden files of no version."""

NOT_STORED: Final = {
    "cli.doctor.DOCUMENT_VERSION": "printed",
    "cli.report_view.VERSION": "printed",
    "formats.audit_record.EVENT_VERSION": "CloudTrail's",
    "kms.pkcs11: b'volcrypt known answer'": "encrypted and decrypted at once",
    "volume.live_map._MAGIC": "gone with the next reboot; what is not known is void",
    "volume.live_map._VERSION": "gone with the next reboot; what is not known is void",
}

FROZEN: Final[dict[str, Value]] = {
    # How files begin
    "formats.backup._MAGIC": b"volcrypt backup ",
    "formats.ciphertext_blob.MAGIC": b"VKCB",
    "formats.document: b'volcrypt %s %d\\n%s\\n'": b"volcrypt %s %d\n%s\n",
    "formats.import_token.MAGIC": b"VKIT",
    "formats.job._MAGIC": b"volcrypt job ",
    "formats.luks2.LUKS_MAGIC": b"LUKS\xba\xbe",
    "formats.present_map.MAGIC": b"VCRYPPRS",
    "formats.sealed_secret.MAGIC": b"VKSS",
    "formats.write_count._KIND": b"volcrypt write-count ",
    "formats.write_intents.MAGIC": b"VCRYPINT",
    "operations.home_directory: 'volcrypt home'": "volcrypt home",
    "volume.owner._MAGIC": b"volcrypt owner 1\n",
    # Kinds of documents
    "formats.audit_head.KIND": "audit-head",
    "formats.certificate.KIND": "certificate",
    "formats.change_map.KIND": "change-map",
    "formats.condemned.CONDEMNED_KIND": "condemned",
    "formats.condemned.SWEEPING_KIND": "sweeping",
    "formats.copy_cursor.KIND": "copy",
    "formats.import_cursor.KIND": "import",
    "formats.lease.KIND": "lease",
    "formats.lease.RELEASE_KIND": "lease-release",
    "formats.manifest.KIND": "manifest",
    "formats.migration.KIND": "migration",
    "formats.pin.KIND": "pin",
    "formats.record_copy.KIND": "volume-copy",
    "formats.store.KIND": "store",
    "formats.store_place.KIND": "store-place",
    "formats.token_image.KIND": "token",
    "formats.tombstone.KIND": "tombstone",
    "formats.volume_record.KIND": "volume",
    "formats.workflow.KIND": "workflow",
    # What the register has
    "operations.leases.KIND": "lease",
    "operations.records.KIND": "volume",
    "operations.stores.KIND": "store",
    "operations.stores.HEAD_KIND": "log-head",
    "operations.workflows.KIND": "workflow",
    # What keys and seals are derived from
    "formats.backup: b'volcrypt backup chunks 1'": b"volcrypt backup chunks 1",
    "formats.import_log: b'volcrypt content 1\\x00'": b"volcrypt content 1\0",
    "formats.record_copy: b'volcrypt record copy\\x00'": b"volcrypt record copy\0",
    "kms.access_key_operations: b'volcrypt access key 1\\x00'": b"volcrypt access key 1\0",
    "kms.census: b'volcrypt alive 1\\x00'": b"volcrypt alive 1\0",
    "kms.import_operations: b'volcrypt import token 1\\x00'": b"volcrypt import token 1\0",
    "kms.import_operations: b'volcrypt imported material 1\\x00'": (
        b"volcrypt imported material 1\0"
    ),
    "kms.sealing: 'volcrypt catalogue item 1'": "volcrypt catalogue item 1",
    "kms.sealing: 'volcrypt catalogue seal 2'": "volcrypt catalogue seal 2",
    "kms.service: b'volcrypt home key 1\\x00'": b"volcrypt home key 1\0",
    "operations.copy_cursors: b'volcrypt copy cursor\\x00'": b"volcrypt copy cursor\0",
    "operations.home: b'volcrypt change map\\x00'": b"volcrypt change map\0",
    "operations.home: b'volcrypt volume record\\x00'": b"volcrypt volume record\0",
    "operations.import_cursors: b'volcrypt import cursor\\x00'": b"volcrypt import cursor\0",
    "operations.import_logs: b'volcrypt import log\\x00'": b"volcrypt import log\0",
    "operations.migrations: b'volcrypt migration\\x00'": b"volcrypt migration\0",
    "operations.mount_grants: b'volcrypt host\\x00'": b"volcrypt host\0",
    "operations.stores: b'volcrypt snapshot signer'": b"volcrypt snapshot signer",
    "operations.stores: b'volcrypt store place\\x00'": b"volcrypt store place\0",
    "operations.stores: b'volcrypt store root\\x00'": b"volcrypt store root\0",
    "operations.workflows: b'volcrypt workflow\\x00'": b"volcrypt workflow\0",
}
"""Never another: golden files, and the homes of releases (`golden_home.py`), show that."""


def constants(code: Path = _CODE) -> dict[str, Value]:
    """Versions, magics and kinds of all modules by `module.NAME`, and other texts that look like
    labels of volcrypt by `module: text`. What only joins another's is not repeated."""
    found: dict[str, Value] = {}
    for path in sorted(code.rglob("*.py")):
        text = path.read_bytes()
        if not _WORTH_PARSING.search(text):
            continue
        module = ".".join(path.relative_to(code).with_suffix("").parts)
        tree = ast.parse(text)
        named = {id(node): name for name, node in _assigned(tree) if _NAMES.fullmatch(name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, int | str | bytes):
                if id(node) in named:
                    found[f"{module}.{named[id(node)]}"] = node.value
                elif _is_label(node.value):
                    found[f"{module}: {node.value!r}"] = node.value
    return found


def _assigned(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        for target in targets:
            value = getattr(node, "value", None)
            if isinstance(target, ast.Name) and isinstance(value, ast.expr):
                yield target.id, value


def _is_label(value: Value) -> bool:
    if isinstance(value, bytes):
        return value.startswith(b"volcrypt ") and len(value) > len(b"volcrypt ")
    # Hints name commands, so a text is a label only with a number, or as the one without.
    return isinstance(value, str) and (
        _NUMBERED.fullmatch(value) is not None or value == "volcrypt home"
    )
