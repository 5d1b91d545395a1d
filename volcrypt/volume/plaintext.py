"""What a volume is to who reads and writes its plaintext, and knows neither keys nor files."""

from typing import TYPE_CHECKING, Protocol

from typing_extensions import Buffer

if TYPE_CHECKING:
    from volcrypt.volume.volume import Volume


class PlaintextVolume(Protocol):
    """`Volume` has it, and says what each does."""

    size_bytes: int
    read_only: bool

    def read_into(self, offset: int, buffer: Buffer) -> None: ...
    def try_read_into(self, offset: int, buffer: Buffer) -> bool: ...
    def write(self, offset: int, data: Buffer) -> None: ...
    def discard(self, offset: int, length: int) -> None: ...
    def next_data(self, offset: int, end: int) -> int: ...
    def drops(self, offset: int, data: Buffer) -> bool: ...
    def flush(self) -> None: ...
    def grow(self, size_bytes: int) -> None: ...


if TYPE_CHECKING:

    def _conformance(volume: Volume) -> PlaintextVolume:
        return volume
