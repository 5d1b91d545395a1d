"""Users of a test's KMS, made behind its back."""

from collections.abc import Sequence

from tests.fakes.kms import ACCOUNT, NOW, MemoryKms
from tests.kms.policies import Statement, document
from volcrypt.kms.model import Caller
from volcrypt.kms.principals import PRINCIPALS, Principal, put_principal, user_arn


def add_user(
    kms: MemoryKms,
    name: str,
    identity: Sequence[Statement] = (),
    *,
    account: str = ACCOUNT,
    user_id: str | None = None,
) -> Caller:
    """A user with this identity policy, if it is any."""
    principal = Principal(
        arn=user_arn(account, name),
        account=account,
        name=name,
        user_id=user_id or f"AIDA{name.upper():0>17}",
        created_at=NOW,
        policies={"own": document(identity)} if identity else {},
    )
    with kms.catalog.changing() as change:
        put_principal(change, principal)
    return Caller(arn=principal.arn, account=account)


def remove_user(kms: MemoryKms, caller: Caller) -> None:
    with kms.catalog.changing() as change:
        change.delete(PRINCIPALS, caller.arn)
