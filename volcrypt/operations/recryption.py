"""Chunks under one data key become chunks under another, or plaintext, with keys from the KMS."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from volcrypt.formats.volume_record import WrappedDataKey
from volcrypt.operations.home import Home
from volcrypt.operations.keys import data_key_id, unwrap_key
from volcrypt.snapshot.recryptor import Decryptor, Recryptor


@contextmanager
def recryption(
    home: Home, old: WrappedDataKey | None, new: WrappedDataKey | None
) -> Iterator[Recryptor | None]:
    """What turns a chunk of ciphertext under `old` into one under `new`, in place; None when that
    is nothing. Both data keys are wiped at the end. Never towards plaintext."""
    if data_key_id(old) == data_key_id(new):
        yield None
        return
    assert new is not None, "internal error: encrypted never becomes unencrypted"
    with ExitStack() as keys:
        old_key = keys.enter_context(unwrap_key(home, old)) if old is not None else None
        new_key = keys.enter_context(unwrap_key(home, new))
        step = Recryptor(old_key, new_key)
        keys.callback(step.wipe)
        yield step


@contextmanager
def decryption(home: Home, wrapped_key: WrappedDataKey | None) -> Iterator[Decryptor | None]:
    """What turns a chunk of ciphertext into plaintext, in place; None when it is that already. For
    who asked for plaintext. The data key is wiped at the end."""
    if wrapped_key is None:
        yield None
        return
    with unwrap_key(home, wrapped_key) as key:
        step = Decryptor(key)
        try:
            yield step
        finally:
            step.wipe()
