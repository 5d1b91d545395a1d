"""Access keys in memory, for the wire."""

from dataclasses import dataclass, field, replace
from typing import Any

from tests.fakes.kms import ACCOUNT, ROOT, USER
from tests.wire.signing import ACCESS_KEY, SECRET

USER_KEY = "AKIAIOSFODNN7ALICE00"
USER_SECRET = "the secret of alice"
OTHER_KEY = "AKIAIOSFODNN7OTHER00"
OTHER_SECRET = "the secret of another account"
OTHER_ACCOUNT = "111111111111"


@dataclass(frozen=True, kw_only=True)
class MemoryAccessKey:
    id: str
    principal: str
    account: str = ACCOUNT
    is_active: bool = True
    is_for_volumes: bool = False
    created_at: float = 0.0
    secret: str = field(repr=False)


class MemoryAccessKeys:
    """`wire.credentials.AccessKeys`."""

    def __init__(self) -> None:
        keys = [
            MemoryAccessKey(id=ACCESS_KEY, principal=ROOT.arn, secret=SECRET),
            MemoryAccessKey(id=USER_KEY, principal=USER.arn, secret=USER_SECRET),
            MemoryAccessKey(
                id=OTHER_KEY,
                principal=f"arn:aws:iam::{OTHER_ACCOUNT}:root",
                account=OTHER_ACCOUNT,
                secret=OTHER_SECRET,
            ),
        ]
        self._keys = {key.id: key for key in keys}
        self.opened_count = 0

    def find(self, id_: str, /) -> MemoryAccessKey | None:
        return self._keys.get(id_)

    def open_secret(self, access_key: object, /) -> bytearray:
        assert isinstance(access_key, MemoryAccessKey)
        self.opened_count += 1
        return bytearray(access_key.secret.encode())

    def deactivate(self, id_: str) -> None:
        self.replace(id_, is_active=False)

    def replace(self, id_: str, **members: Any) -> None:
        """Another access key of the same id."""
        self._keys[id_] = replace(self._keys[id_], **members)
