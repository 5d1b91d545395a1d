"""The power goes while a volume is migrated: what was flushed is there, and nothing that was read
afterwards is another at the switch."""

import random
import signal
from pathlib import Path

import pytest

from tests.file_system import DisposableFileSystem
from tests.migrated_volume import Driver, MigratedVolume, migrated_volume
from tests.served_volume import OpenFile
from volcrypt.geometry import SECTOR_BYTES, UNIT_BYTES

SIZE = 3 * 2**20 + UNIT_BYTES


class Run:
    def __init__(self, volume: MigratedVolume, seed: int) -> None:
        self.volume = volume
        self.dice = random.Random(seed)
        self.flushed = bytearray(SIZE)
        # Per sector, what it may be after a cut.
        self.unsynced: dict[int, set[bytes]] = {}
        self.writes = 0

    def write(self, file: OpenFile) -> None:
        sectors = self.dice.choice([1, 8, 8, 40])
        first = self.dice.randrange(SIZE // SECTOR_BYTES - sectors)
        self.writes += 1
        data = b"%15d\n" % self.writes * 32 * sectors
        file.write(first * SECTOR_BYTES, data)
        for sector in range(first, first + sectors):
            self.unsynced.setdefault(sector, {self.sector(self.flushed, sector)}).add(data[:512])

    def sync(self, file: OpenFile) -> None:
        file.sync()
        self.take(file)

    def take(self, file: OpenFile) -> None:
        """What is there is what has to stay."""
        self.flushed[:] = file.read(0, SIZE)
        self.unsynced.clear()

    @staticmethod
    def sector(content: bytes | bytearray, number: int) -> bytes:
        return bytes(content[number * SECTOR_BYTES : (number + 1) * SECTOR_BYTES])

    def use(self, file: OpenFile, *, flushes: bool) -> None:
        for _ in range(30):
            self.write(file)
        if flushes:
            self.sync(file)
        for _ in range(30):
            self.write(file)

    def cut(self, disk: DisposableFileSystem) -> None:
        self.volume.signal(signal.SIGKILL)
        self.volume.clean_up()
        disk.cut_power()
        for path in self.volume.runtime.glob("*.map"):
            path.unlink()
        self.volume.mount()
        with OpenFile(self.volume) as file:
            found = file.read(0, SIZE)
            for sector in range(SIZE // SECTOR_BYTES):
                now, before = self.sector(found, sector), self.sector(self.flushed, sector)
                assert now in self.unsynced.get(sector, {before}), f"sector {sector}"
            # From here on somebody has seen it so.
            self.take(file)

    def copy(self, stop: int) -> None:
        with self.volume.migration() as driver:
            driver.begin()
            driver.copy(stop)


def prepared(driver: Driver) -> None:
    driver.begin()
    driver.copy()
    driver.verify()
    driver.calls.prepare(driver.name)


@pytest.mark.parametrize(("plane", "seed"), [("native", 1), ("python", 2)])
def test_nothing_flips(tmp_path: Path, ext4: DisposableFileSystem, plane: str, seed: int) -> None:
    play(tmp_path, ext4, plane, seed)


@pytest.mark.soak
@pytest.mark.parametrize("plane", ["native", "python"])
@pytest.mark.parametrize("seed", range(10, 25))
def test_nothing_flips_for_long(
    tmp_path: Path, file_system: DisposableFileSystem, plane: str, seed: int
) -> None:
    play(tmp_path, file_system, plane, seed)


def play(tmp_path: Path, disk: DisposableFileSystem, plane: str, seed: int) -> None:
    place = disk.directory / "volume"
    place.mkdir()
    with migrated_volume(
        place,
        size_bytes=SIZE,
        data_plane=plane,
        encrypted=seed % 2 == 0,
        mount_at=tmp_path / "mnt",
    ) as volume:
        run = Run(volume, seed)
        volume.mount()
        for stop in (2, 4, volume.chunks):
            with OpenFile(volume) as file:
                run.use(file, flushes=seed % 3 != 0)
                run.copy(stop)
                run.use(file, flushes=run.dice.random() < 0.5)
            run.cut(disk)
        with OpenFile(volume) as file, volume.migration() as driver:
            prepared(driver)
            run.use(file, flushes=True)
            driver.decide()
            run.use(file, flushes=seed % 2 > 0)
        run.cut(disk)
        assert volume.is_target
        with OpenFile(volume) as file:
            assert file.read(0, SIZE) == run.flushed
        volume.unmount()
        assert volume.decrypted() == run.flushed
