"""The access keys of a home, as `credentials` asks for them."""

from typing import Any

from volcrypt.wire.credentials import AccessKey


class HomeAccessKeys:
    """Called in the engine's thread."""

    def __init__(self, service: Any) -> None:
        """`service` is the home's `KmsService`, for all accounts."""
        self._service = service

    def find(self, id_: str, /) -> AccessKey | None:
        found: AccessKey | None = self._service.access_key(id_)
        return found

    def open_secret(self, access_key: AccessKey, /) -> bytearray:
        secret: bytearray = self._service.open_secret(access_key)
        return secret
