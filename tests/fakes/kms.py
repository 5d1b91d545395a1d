"""A KMS on the memory key store, and the callers that tests are."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.keystore import MemoryKeyStore
from volcrypt.errors import AuditChainError
from volcrypt.formats.audit_record import AuditRecord
from volcrypt.kms.audit import AuditLog
from volcrypt.kms.catalog import Catalog
from volcrypt.kms.lock import WriterLock
from volcrypt.kms.messages.keys import CreateKeyRequest
from volcrypt.kms.model import Caller, root_arn
from volcrypt.kms.scope import Parts
from volcrypt.kms.service import KmsService

ACCOUNT = "000000000000"
REGION = "us-east-1"
ROOT = Caller(arn=root_arn(ACCOUNT), account=ACCOUNT)
VOLUMES = Caller(arn=root_arn(ACCOUNT), account=ACCOUNT, via_service=True)
USER = Caller(arn=f"arn:aws:iam::{ACCOUNT}:user/alice", account=ACCOUNT)
STRANGER = Caller(arn=root_arn("111111111111"), account="111111111111")
NOW = 1_800_000_000.25


class MemoryKms:
    """A service whose catalogue and log are files, and whose HSM is memory."""

    def __init__(self, directory: Path, keystore: MemoryKeyStore) -> None:
        self.now = NOW
        """What the clock of the host says."""
        self.directory = directory
        self.keystore = keystore
        self.lock = WriterLock(directory / "lock")
        self.catalog = Catalog(directory / "catalog.sqlite3", lock=self.lock, macs=keystore)
        self.audit = AuditLog(directory / "audit")
        self.service = self.service_of(ACCOUNT, REGION)

    def service_of(self, account: str, region: str) -> KmsService:
        """Another service of the same home."""
        return KmsService(
            Parts(
                catalog=self.catalog,
                keystore=self.keystore,
                audit=self.audit,
                account=account,
                region=region,
                clock=lambda: self.now,
            )
        )

    def close(self) -> None:
        self.catalog.close()
        self.lock.close()

    def new_key(self) -> str:
        """The id of a new customer managed key."""
        response = self.service.perform(ROOT, CreateKeyRequest())
        return response.key_metadata.key_id

    def records(self) -> list[AuditRecord]:
        """All records of the log, which must be whole."""
        if self.audit.verify(self.service.audit_head()):
            raise AuditChainError("there are records behind the head")
        return list(self.audit.read_records())


@contextmanager
def memory_kms(directory: Path, keystore: MemoryKeyStore | None = None) -> Iterator[MemoryKms]:
    """Made when it is new, and opened."""
    keystore = keystore or MemoryKeyStore()
    directory.mkdir(exist_ok=True)
    if not (directory / "catalog.sqlite3").exists():
        AuditLog.create(directory / "audit")
        Catalog.create(directory / "catalog.sqlite3", macs=keystore, items=[])
    kms = MemoryKms(directory, keystore)
    try:
        yield kms
    finally:
        kms.close()
