"""DataKey: the 64 bytes that encrypt a volume, held so that they can be wiped.

Knows how to hold, check and forget them; does not know who unwrapped them.
"""

from typing import Final, Self

from volcrypt.crypto.xts import KEY_BYTES, XtsKernel

DATA_KEY_BYTES: Final = KEY_BYTES


class DataKey:
    """A plaintext data key, K1 || K2 for AES-256-XTS.

    Takes ownership of a bytearray, which `wipe` overwrites. Never printed, compared, hashed or
    serialised. Use it as a context manager, so that it is wiped also when something fails.
    """

    __slots__ = ("_material",)

    def __init__(self, material: bytearray) -> None:
        """Raises ValueError (and wipes) when the length is not 64 or the halves are equal."""
        try:
            # Equal halves are refused by the kernel, on both paths and at every unwrap.
            XtsKernel(material).wipe()
        except ValueError:
            _overwrite(material)
            raise
        if len(material) != DATA_KEY_BYTES:
            _overwrite(material)
            raise ValueError("a data key has 64 bytes")
        self._material = material

    def __repr__(self) -> str:
        return "<DataKey>"

    def __reduce__(self) -> tuple[()]:
        raise TypeError("a data key is never serialised")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()

    def kernel(self) -> XtsKernel:
        """A cipher under this key; one per thread, since its contexts are not reentrant."""
        return XtsKernel(self.view())

    def view(self) -> memoryview:
        """The bytes themselves, for a pipe to the process that serves; not to be copied."""
        if not self._material:
            raise ValueError("the data key was wiped")
        return memoryview(self._material).toreadonly()

    def wipe(self) -> None:
        _overwrite(self._material)
        self._material = bytearray()


def _overwrite(material: bytearray) -> None:
    material[:] = bytes(len(material))
