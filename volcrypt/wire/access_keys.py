"""The access keys of a home, as `credentials` asks for them."""

from volcrypt.errors import UnrecognizedClientError
from volcrypt.kms.principals import AccessKey
from volcrypt.kms.service import KmsService
from volcrypt.wire import credentials


class HomeAccessKeys:
    """Called in the engine's thread."""

    def __init__(self, service: KmsService) -> None:
        self._service = service

    def find(self, id_: str, /) -> AccessKey | None:
        return self._service.find_access_key(id_)

    def open_secret(self, access_key: credentials.AccessKey, /) -> bytearray:
        """Raises UnrecognizedClientError for one that was deleted just now."""
        found = self._service.find_access_key(access_key.id)
        if found is None:
            raise UnrecognizedClientError(f"access key {access_key.id} was deleted")
        return self._service.open_secret(found)
