"""From ciphertext under one data key to ciphertext under another, chunk by chunk.

Plaintext is only ever in the buffer of a worker, between one cipher and the next.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from volcrypt.crypto.data_key import DataKey
from volcrypt.crypto.xts import XtsKernel
from volcrypt.formats.volume_record import WrappedDataKey
from volcrypt.geometry import UNITS_PER_CHUNK
from volcrypt.operations.home import Home
from volcrypt.operations.keys import unwrap_key
from volcrypt.snapshot.mover import Step


def data_key_id(wrapped_key: WrappedDataKey | None) -> str | None:
    """Which data key it is; None for no encryption."""
    return wrapped_key.data_key_id if wrapped_key is not None else None


@contextmanager
def recryption(
    home: Home, old: WrappedDataKey | None, new: WrappedDataKey | None
) -> Iterator[Step | None]:
    """What turns a chunk of ciphertext under `old` into one under `new`, in place; None when that
    is nothing. Both data keys are wiped at the end. Never towards plaintext."""
    if data_key_id(old) == data_key_id(new):
        yield None
        return
    assert new is not None, "internal error: encrypted never becomes unencrypted"
    with ExitStack() as keys:
        old_key = keys.enter_context(unwrap_key(home, old)) if old is not None else None
        new_key = keys.enter_context(unwrap_key(home, new))
        kernels = _KernelPairs(old_key, new_key)
        keys.callback(kernels.wipe)

        def step(index: int, chunk: memoryview) -> None:
            first_unit = index * UNITS_PER_CHUNK
            decrypt, encrypt = kernels.of_this_thread()
            if decrypt is not None:
                decrypt.decrypt_sparse_units(first_unit, chunk, chunk)
            encrypt.encrypt_units(first_unit, chunk, chunk)

        yield step


class _KernelPairs:
    """Kernels for each thread: their contexts are not reentrant."""

    def __init__(self, old: DataKey | None, new: DataKey) -> None:
        self._old = old
        self._new = new
        self._local = threading.local()
        self._made: list[XtsKernel] = []

    def of_this_thread(self) -> tuple[XtsKernel | None, XtsKernel]:
        pair: tuple[XtsKernel | None, XtsKernel] | None = getattr(self._local, "pair", None)
        if pair is None:
            pair = (self._old.kernel() if self._old is not None else None, self._new.kernel())
            self._made += [kernel for kernel in pair if kernel is not None]
            self._local.pair = pair
        return pair

    def wipe(self) -> None:
        for kernel in self._made:
            kernel.wipe()
