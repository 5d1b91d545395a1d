"""What the KMS and the process of a custom key store say to each other. Pure.

Over a socket pair, by turns: a call, and its reply, each a frame (`frames`) of msgpack. The first
call is Open; a process serves one token until the socket is closed.
"""

import msgspec

from volcrypt.kms.model import WrappedMaterial


class Open(msgspec.Struct, tag=True, frozen=True):
    """Log in. The wrapping keys' labels begin with `prefix`; `make_key` is True where there may be
    none yet, and one is made then. `configuration` is SoftHSM's."""

    module: str
    label: str
    configuration: str | None
    prefix: str
    make_key: bool
    pin: bytearray


class Generate(msgspec.Struct, tag=True, frozen=True):
    pass


class Encrypt(msgspec.Struct, tag=True, frozen=True):
    material: WrappedMaterial
    plaintext: bytearray
    aad: bytes


class Decrypt(msgspec.Struct, tag=True, frozen=True):
    material: WrappedMaterial
    sealed: bytes
    aad: bytes


class Random(msgspec.Struct, tag=True, frozen=True):
    count: int


class Rewrap(msgspec.Struct, tag=True, frozen=True):
    materials: list[WrappedMaterial]


class Generation(msgspec.Struct, tag=True, frozen=True):
    pass


class Retire(msgspec.Struct, tag=True, frozen=True):
    older_than: int


Call = Open | Generate | Encrypt | Decrypt | Random | Rewrap | Generation | Retire


class Answer(msgspec.Struct, tag=True, frozen=True, kw_only=True):
    """What a call gives; one of these, or none."""

    data: bytearray | None = None
    materials: list[WrappedMaterial] | None = None
    number: int | None = None


class Failure(msgspec.Struct, tag=True, frozen=True):
    """`kind` is the name of one of the errors that `key_store_process` and `remote_store` know."""

    kind: str
    message: str


Reply = Answer | Failure
