"""Whether catalogue and audit log are the newest: what a crash can leave of them, and what not.
Pure.

The catalogue's seal cannot stop somebody from putting back the whole file as it was last week. The
file of the audit log's head (`head_file`), which changes with every request, has the catalogue's
counter as well, and the two are written like this:

    a request without rows    record appended and synced; head (same counter) synced
    a change of rows          record appended and synced; rows and seal committed; head (new
                              counter) synced

A new counter is in the head only after it is durable in the catalogue, and no catalogue is changed
before the head has its present counter. So, after a kill or a power cut at any point, the catalogue
has the head's counter, or is exactly one ahead, and then its seal has the newer audit head.
Anything else was not left by a crash:

- the catalogue is behind the head: it was rolled back;
- it is further ahead, or its seal knows of later records than the head: the directory of the log
  was rolled back, or one of the two is another home's.

A catalogue and a head that were put back together fit each other, but not the log that was left:
it goes on behind the head. What a crash leaves there is known too (`audit`): not more than two
batches of records, and in them one allowed request that changes rows and one event of the service.
More is found at the next request, which is refused with all others.

Not detected: a rollback of catalogue *and* head that undoes exactly the last change of rows (and at
most 127 records of other kinds since); it looks like a process that was killed before its commit,
and leaves an event `RecoverAuditLog` in the log. A rollback of catalogue *and* log with its head to
the same moment; of the log with its head to a moment after the last change of rows (`audit verify
--expect-head` finds both). A rollback of the catalogue alone by the last change, if the process
that made it was killed between commit and head, before it answered anybody, and nothing has changed
since.
"""

from volcrypt.errors import RollbackError
from volcrypt.formats.audit_head import SealedHead
from volcrypt.formats.audit_record import AuditHead
from volcrypt.kms.sealing import Seal


def current_audit_head(seal: Seal, head: SealedHead, *, catalogue: str) -> AuditHead:
    """The end of the log, which is the later of what the seal and the head say.

    `catalogue` names the file in errors. Raises RollbackError.
    """
    if seal.counter < head.catalogue:
        raise RollbackError(catalogue)
    if is_ahead(seal, head):
        raise RollbackError(f"the audit log that goes with {catalogue}")
    return seal.audit if seal.counter > head.catalogue else head.audit


def is_ahead(seal: Seal, head: SealedHead) -> bool:
    """Whether the catalogue is further ahead of the head than a crash can leave it."""
    if seal.counter == head.catalogue + 1:
        return seal.audit.sequence < head.audit.sequence
    if seal.counter == head.catalogue and seal.audit.sequence == head.audit.sequence:
        return seal.audit.hash != head.audit.hash
    return seal.counter > head.catalogue or seal.audit.sequence > head.audit.sequence
