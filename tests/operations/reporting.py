"""Homes for tests of reports: what is in them, and who is stopped in the middle."""

from pathlib import Path

from tests.snapshots import create_snapshot
from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.formats.manifest import Manifest
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.kms.messages.keys import CreateKeyRequest
from volcrypt.operations.copy_creation import copy_snapshot
from volcrypt.operations.encryption_report import (
    EncryptionReport,
    FindingKind,
)
from volcrypt.operations.home import Home
from volcrypt.operations.images import import_volume
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.progress import SILENT
from volcrypt.operations.store_admin import create_store

PLAIN = KeyChoice(encrypted=False)
SIZE = 2 * CHUNK_BYTES
NOW = 2_000_000_000.0
ARN = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-0000-0000-000000000000"


def new_key(home: Home) -> str:
    return home.kms.perform(home.caller, CreateKeyRequest()).key_metadata.arn


def found_by(report: EncryptionReport) -> set[tuple[FindingKind, str]]:
    return {(finding.kind, finding.subject) for finding in report.findings}


def volume(home: Home, name: str, choice: KeyChoice, tmp_path: Path) -> VolumeRecord:
    (tmp_path / "image").write_bytes(b"some content " * (SIZE // 13))
    return import_volume(home, tmp_path / "image", name=name, choice=choice, progress=SILENT).record


def snapshot(home: Home, name: str) -> Manifest:
    return create_snapshot(home, name, name=f"{name}-1", store=None, progress=SILENT)


def store(home: Home, name: str, tmp_path: Path) -> Path:
    create_store(
        home,
        name,
        url=(tmp_path / name).as_uri(),
        region=None,
        endpoint=None,
        encryption=None,
        digest=DigestAlgorithm.BLAKE3,
    )
    return tmp_path / name


def copy(home: Home, name: str, *, choice: KeyChoice, store: str | None = None) -> Manifest:
    return copy_snapshot(
        home, name, choice=choice, name=None, store=store, region=None, progress=SILENT
    )


class StoppedError(Exception):
    """The end of a command before its time."""


class Stops:
    """Progress that ends the work at a step."""

    def __init__(self, step: str) -> None:
        self._step = step

    def begin(self, step: str, total_bytes: int | None) -> None:
        if step.startswith(self._step):
            raise StoppedError

    def advance(self, done_bytes: int) -> None:
        pass
