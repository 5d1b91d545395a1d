"""From ciphertext under one data key to ciphertext under another, or to plaintext, chunk by chunk.

Plaintext is only ever in the buffer of a worker, between one cipher and the next.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

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
        decrypt = None if old is None else keys.enter_context(_kernels(home, old))
        encrypt = keys.enter_context(_kernels(home, new))

        def step(index: int, chunk: memoryview) -> None:
            first_unit = index * UNITS_PER_CHUNK
            if decrypt is not None:
                decrypt().decrypt_sparse_units(first_unit, chunk, chunk)
            encrypt().encrypt_units(first_unit, chunk, chunk)

        yield step


@contextmanager
def decryption(home: Home, wrapped_key: WrappedDataKey | None) -> Iterator[Step | None]:
    """What turns a chunk of ciphertext into plaintext, in place; None when it is that already. For
    who asked for plaintext. The data key is wiped at the end."""
    if wrapped_key is None:
        yield None
        return
    with _kernels(home, wrapped_key) as kernel:

        def step(index: int, chunk: memoryview) -> None:
            kernel().decrypt_sparse_units(index * UNITS_PER_CHUNK, chunk, chunk)

        yield step


@contextmanager
def _kernels(home: Home, wrapped_key: WrappedDataKey) -> Iterator[Callable[[], XtsKernel]]:
    """A kernel for each thread that asks: their contexts are not reentrant."""
    local = threading.local()
    made: list[XtsKernel] = []
    with unwrap_key(home, wrapped_key) as key:

        def of_this_thread() -> XtsKernel:
            kernel: XtsKernel | None = getattr(local, "kernel", None)
            if kernel is None:
                kernel = local.kernel = key.kernel()
                made.append(kernel)
            return kernel

        try:
            yield of_this_thread
        finally:
            for kernel in made:
                kernel.wipe()
