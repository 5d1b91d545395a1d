"""From ciphertext under one data key to ciphertext under another, or to plaintext, chunk by chunk.

Plaintext is only ever in the buffer of the caller, between one cipher and the next.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from volcrypt.crypto.data_key import DataKey
from volcrypt.crypto.xts import XtsKernel
from volcrypt.errors import KeyWipedError
from volcrypt.geometry import UNITS_PER_CHUNK


class Recryptor:
    """A `mover.Step` for several threads at once. Both keys must outlive it."""

    def __init__(self, old: DataKey | None, new: DataKey) -> None:
        """`old` None: what comes is not encrypted. Never towards plaintext."""
        self._old = None if old is None else _Kernels(old)
        self._new = _Kernels(new)

    def __call__(self, index: int, chunk: memoryview) -> None:
        """Change the ciphertext of chunk `index` in place."""
        first_unit = index * UNITS_PER_CHUNK
        # Taken before anything is decrypted: what was begun ends as ciphertext.
        with self._new.taken() as encrypt:
            if self._old is not None:
                with self._old.taken() as decrypt:
                    decrypt.decrypt_sparse_units(first_unit, chunk, chunk)
            encrypt.encrypt_units(first_unit, chunk, chunk)

    def wipe(self) -> None:
        """Calls that are running in other threads end normally and wipe theirs. May be called
        twice."""
        self._new.wipe()
        if self._old is not None:
            self._old.wipe()


class Decryptor:
    """A `mover.Step` towards plaintext, for who asked for it. As Recryptor."""

    def __init__(self, key: DataKey) -> None:
        self._kernels = _Kernels(key)

    def __call__(self, index: int, chunk: memoryview) -> None:
        """Change the ciphertext of chunk `index` in place."""
        with self._kernels.taken() as kernel:
            kernel.decrypt_sparse_units(index * UNITS_PER_CHUNK, chunk, chunk)

    def wipe(self) -> None:
        self._kernels.wipe()


class _Kernels:
    """Kernels of one key. One is not reentrant, so each call takes its own: lists push and pop
    atomically."""

    def __init__(self, key: DataKey) -> None:
        self._key = key
        self._idle: list[XtsKernel] = []
        self._wiped = False

    @contextmanager
    def taken(self) -> Iterator[XtsKernel]:
        """Raises KeyWipedError after `wipe`."""
        if self._wiped:
            raise KeyWipedError("the data key was wiped")
        try:
            kernel = self._idle.pop()
        except IndexError:
            kernel = self._key.kernel()
        try:
            yield kernel
        finally:
            self._give_back(kernel)

    def _give_back(self, kernel: XtsKernel) -> None:
        self._idle.append(kernel)
        if self._wiped:
            # `wipe` may have emptied the stack just before.
            self.wipe()

    def wipe(self) -> None:
        self._wiped = True
        while self._idle:
            self._idle.pop().wipe()
