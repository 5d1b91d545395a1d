"""What a process serves now: the volume as it was opened, and after a migration what has become
of it.
"""

from dataclasses import dataclass

from volcrypt.crypto.data_key import DataKey
from volcrypt.names import DataKeyId
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.volume import Volume
from volcrypt.volume.write_counter import WriteCounter


@dataclass(slots=True, kw_only=True)
class Served:
    """What a process serves, and owns."""

    data: DataFile
    volume: Volume
    data_key: DataKey | None
    data_key_id: DataKeyId | None
    written: WriteCounter | None

    @property
    def is_encrypted(self) -> bool:
        """Also when the key was wiped."""
        return self.data_key is not None

    def wipe(self) -> None:
        """The key, and every cipher that no request uses."""
        self.volume.close()
        if self.data_key is not None:
            self.data_key.wipe()

    def close(self) -> None:
        """May be called twice."""
        self.wipe()
        self.data.close()
        if self.written is not None:
            self.written.close()
