"""A KMS on the memory key store, and the callers that tests are."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from tests.fakes.keystore import MemoryKeyStore
from volcrypt.errors import AuditChainError
from volcrypt.formats.audit_record import AuditRecord
from volcrypt.kms.audit import AuditLog
from volcrypt.kms.catalog import FIRST_COUNTER, Catalog
from volcrypt.kms.head_file import HeadFile
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
        with ExitStack() as stack:
            self.lock = stack.enter_context(closing(WriterLock(directory / "lock")))
            self.heads = stack.enter_context(
                closing(HeadFile(directory / "audit" / "head", macs=keystore))
            )
            self.audit = stack.enter_context(closing(AuditLog(directory / "audit")))
            self.catalog = stack.enter_context(
                closing(
                    Catalog(
                        directory / "catalog.sqlite3",
                        lock=self.lock,
                        macs=keystore,
                        heads=self.heads,
                    )
                )
            )
            self._stack = stack.pop_all()
        self.service = KmsService(
            Parts(
                catalog=self.catalog,
                keystore=keystore,
                audit=self.audit,
                account=ACCOUNT,
                region=REGION,
                clock=lambda: self.now,
            )
        )

    def close(self) -> None:
        self._stack.close()

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
        HeadFile.create(directory / "audit" / "head", macs=keystore, catalogue=FIRST_COUNTER)
        Catalog.create(directory / "catalog.sqlite3", macs=keystore, items=[])
    kms = MemoryKms(directory, keystore)
    try:
        yield kms
    finally:
        kms.close()
