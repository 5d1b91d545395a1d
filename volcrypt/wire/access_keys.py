"""The access keys of a home, as `credentials` asks for them."""

from volcrypt.kms.service import KmsService
from volcrypt.wire.credentials import AccessKey


class HomeAccessKeys:
    """Called in the engine's thread."""

    def __init__(self, service: KmsService) -> None:
        self._service = service

    def find(self, id_: str, /) -> AccessKey | None:
        return None

    def open_secret(self, access_key: AccessKey, /) -> bytearray:
        raise AssertionError("internal error: there are no access keys yet")
