"""CustomerKey: a key that its owner keeps and gives to each command; it wraps data keys.

The wrapping is AES-256-KWP (RFC 5649), whose check value says whether a key is the right one. Knows
how to hold the key and forget it; does not know where it came from.
"""

from typing import Final

from cryptography.hazmat.primitives import keywrap

from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import IntegrityError, InvalidArgumentError, WrongCustomerKeyError

CUSTOMER_KEY_BYTES: Final = 32


class CustomerKey:
    """32 bytes from outside. Takes ownership of a bytearray, which `wipe` overwrites. Never
    printed, compared or serialised.

    What the library copies of a data key while it wraps stays in this process until that ends: it
    is for commands, which lock their memory and do not live long.
    """

    __slots__ = ("_material",)

    def __init__(self, material: bytearray) -> None:
        """Raises InvalidArgumentError (and wipes) when the length is not 32."""
        if len(material) != CUSTOMER_KEY_BYTES:
            material[:] = bytes(len(material))
            raise InvalidArgumentError("a customer-provided key has exactly 32 bytes")
        self._material = material

    def __repr__(self) -> str:
        return "<CustomerKey>"

    def __reduce__(self) -> tuple[()]:
        raise TypeError("a customer-provided key is never serialised")

    def wrap(self, data_key: DataKey) -> bytes:
        """The same bytes for the same key each time."""
        self._check_not_wiped()
        return keywrap.aes_key_wrap_with_padding(self._material, data_key.view())

    def unwrap(self, wrapped: bytes) -> DataKey:
        """The data key; the caller wipes it. Raises WrongCustomerKeyError; IntegrityError for what
        was wrapped under this key and is no data key."""
        self._check_not_wiped()
        try:
            material = bytearray(keywrap.aes_key_unwrap_with_padding(self._material, wrapped))
        except keywrap.InvalidUnwrap:
            raise WrongCustomerKeyError("it is under another customer-provided key") from None
        try:
            return DataKey(material)
        except ValueError as error:
            raise IntegrityError(f"a customer-provided key wraps no data key: {error}") from error

    def opens(self, wrapped: bytes) -> bool:
        """Whether `wrapped` is a data key under this key."""
        try:
            self.unwrap(wrapped).wipe()
        except WrongCustomerKeyError:
            return False
        return True

    def wipe(self) -> None:
        self._material[:] = bytes(len(self._material))
        self._material = bytearray()

    def _check_not_wiped(self) -> None:
        if not self._material:
            raise ValueError("the customer-provided key was wiped")
