"""A volume goes over to its new data and key under the programs that use it: real mounts, both
data planes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.migrated_volume import TARGET_KEY_ID, MigratedVolume, migrated_volume
from tests.served_volume import OpenFile
from volcrypt.geometry import CHUNK_BYTES

SIZE = 8 * 2**20
TEXT = b"read and written in the clear, up to now. " * 300


@pytest.fixture(params=["native", "python"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MigratedVolume]:
    with migrated_volume(tmp_path, size_bytes=SIZE, data_plane=request.param) as made:
        yield made


def test_a_volume_goes_over_under_an_open_file(volume: MigratedVolume) -> None:
    volume.mount()
    inode = volume.data_path.stat().st_ino
    with OpenFile(volume) as file:
        model = bytearray(SIZE)

        def write(offset: int, data: bytes) -> None:
            file.write(offset, data)
            model[offset : offset + len(data)] = data
            assert file.read(0, SIZE) == model

        write(CHUNK_BYTES - 77, TEXT)
        write(5 * CHUNK_BYTES, TEXT)
        with volume.migration() as driver:
            assert driver.begin().phase == "copy"
            assert 3 <= driver.copy(3).durable < volume.chunks  # holes are passed at once
            write(2 * CHUNK_BYTES + 5, b"on both sides")
            write(9 * CHUNK_BYTES, TEXT)
            assert driver.copy().phase == "verify"
            assert driver.verify().verified == volume.chunks
            write(4 * CHUNK_BYTES, TEXT)
            driver.calls.prepare(driver.name)
            write(6 * CHUNK_BYTES, TEXT)
            driver.decide()
            state = driver.switch()
            assert state is not None
            assert (state.phase, state.writes) != ("switched", 0)
            status = driver.control.status()
            assert status.encrypted
            assert status.data_key_id == TARGET_KEY_ID
            assert status.migration is None
            assert driver.calls.switch(bytes(16)) is None
            write(7 * CHUNK_BYTES, b"under the new key alone" * 1000)
            file.sync()
            driver.destroy()
            assert file.read(0, SIZE) == model
    assert sorted(path.name for path in volume.directory.glob("data*")) == ["data"]
    assert volume.data_path.stat().st_ino != inode
    volume.unmount()
    assert volume.decrypted() == model
    assert b"in the clear" not in volume.stored()
    volume.mount()
    with OpenFile(volume) as file:
        assert file.read(0, SIZE) == model
