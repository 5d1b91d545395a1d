"""Volumes, in histories of the whole product."""

import ctypes
import os

from tests.product_core import (
    CUSTOMER,
    DENIED,
    DONE,
    IN_USE,
    MOST,
    PLAIN,
    UNSAID,
    USAGE,
    ProductCore,
    Volume,
    pick,
    units,
)
from tests.product_stage import SIZES, Done, Trouble
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES
from volcrypt.volume.mountpoint import VOLUME_FILE

_PUNCH = 3  # a hole, and the size stays (linux/falloc.h)
_libc = ctypes.CDLL(None, use_errno=True)


class ProductVolumes(ProductCore):
    def create(self, choice: str, size: int, trouble: Trouble | None) -> None:
        if len(self.volumes) >= MOST:
            return
        name, size_bytes = self.name("v"), SIZES[size % len(SIZES)]
        under = self.default if choice == UNSAID else choice
        codes = self.making(under)
        if choice == PLAIN and self.is_by_default:
            codes = [USAGE]
        words = ("volume", "create", "--name", name, "--size", str(size_bytes))
        done = self.do(
            *(*words, *self.choice(choice)),
            codes=codes,
            trouble=trouble,
            is_done=lambda: self.is_there("volume", name),
        )
        if done.code == DONE:
            self.add(Volume(name, bytearray(size_bytes), under))

    def import_(self, choice: str, seed: int, trouble: Trouble | None) -> None:
        if len(self.volumes) >= MOST:
            return
        name, under = self.name("v"), self.default if choice == UNSAID else choice
        codes = self.making(under)
        if choice == PLAIN and self.is_by_default:
            codes = [USAGE]
        image = units(under, seed, SIZES[seed % len(SIZES)])
        image[CHUNK_BYTES : 2 * CHUNK_BYTES] = bytes(CHUNK_BYTES)
        (self.stage.root / "image").write_bytes(image)
        done = self.do(
            *("volume", "import", self.stage.root / "image", "--name", name),
            *self.choice(choice),
            codes=codes,
            trouble=trouble,
            is_done=lambda: self.is_there("volume", name),
        )
        if done.code == DONE:
            self.add(Volume(name, image, under))

    def mounted(self, which: int) -> Volume | None:
        """A volume that is mounted on return, if it can be."""
        volume = pick(self.volumes, which)
        if volume is None or volume.is_mounted:
            return volume
        self.point(volume).mkdir(exist_ok=True)
        done = self.do(
            "mount",
            volume.name,
            self.point(volume),
            "--discard",
            *self.given(volume.under),
            codes=self.opening(volume, self.is_usable),
        )
        volume.is_mounted = done.code == DONE
        volume.may_be_whole = volume.may_be_whole or volume.is_mounted
        return volume if volume.is_mounted else None

    def write(self, which: int, place: int, seed: int, length: int) -> None:
        """Also where chunks meet, and not along units; and a hole, for the seed 0."""
        volume = self.mounted(which)
        if volume is None:
            return
        end = len(volume.image)
        start = min(place % 6 * CHUNK_BYTES - (place % 3) * 1000, end - 512)
        start = max(0, start // 512 * 512)
        length = min(512 + length % (CHUNK_BYTES + 5000) // 512 * 512, end - start)
        content = bytearray(length) if seed == 0 else units(volume.under, seed, length)
        self.history.append(f"write {volume.name} {start}+{length} seed {seed}")
        descriptor = os.open(self.point(volume) / VOLUME_FILE, os.O_RDWR)
        try:
            if seed == 0:
                offsets = ctypes.c_int64(start), ctypes.c_int64(length)
                assert _libc.fallocate(descriptor, _PUNCH, *offsets) == 0, ctypes.get_errno()
            else:
                assert os.pwrite(descriptor, content, start) == length
            if seed % 2:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        volume.image[start : start + length] = content

    def unmount(self, which: int) -> None:
        volume = pick([each for each in self.volumes if each.is_mounted], which)
        if volume is not None:
            self.do("unmount", volume.name)
            volume.is_mounted = False

    def kill(self) -> None:
        """Everybody who serves a volume; what they wrote is in the page cache."""
        self.history.append("kill all")
        self.stage.command.kill_processes()
        for volume in self.volumes:
            volume.is_mounted = False

    def restart(self) -> None:
        """Of the machine; it was in order as far as the file systems go."""
        self.history.append("restart")
        self.stage.end_mounts()
        self.stage.command.forget_runtime()
        for volume in self.volumes:
            volume.is_mounted = False

    def grow(self, which: int, trouble: Trouble | None) -> None:
        volume = pick(self.volumes, which)
        if volume is None or len(volume.image) > 8 * CHUNK_BYTES:
            return
        size_bytes = len(volume.image) + CHUNK_BYTES + UNIT_BYTES
        self.do(
            *("volume", "grow", volume.name, "--size", str(size_bytes)),
            trouble=trouble,
            is_done=lambda: self.listed("volume")[volume.name]["Size"] == size_bytes,
        )
        volume.image.extend(bytes(size_bytes - len(volume.image)))

    def delete_volume(self, which: int, trouble: Trouble | None) -> None:
        volume = pick(self.volumes, which)
        if volume is None:
            return
        self.do(
            *("volume", "delete", "--yes", volume.name),
            codes=[IN_USE] if volume.is_mounted else [DONE],
            trouble=trouble,
            is_done=lambda: volume.name not in self.listed("volume"),
        )
        if not volume.is_mounted:
            self.volumes.remove(volume)

    def read(self, which: int) -> None:
        volume = pick(self.volumes, which)
        if volume is not None:
            self.read_volume(volume)

    def read_volume(self, volume: Volume) -> None:
        if volume.is_mounted:
            content = (self.point(volume) / VOLUME_FILE).read_bytes()
            assert content == volume.image, f"{volume.name} reads wrong\n{self}"
            return
        words = ("volume", "export", "--yes", volume.name, self.stage.out)
        if volume.under == CUSTOMER:
            self.do(*words, codes=[USAGE])
            self.do(*words, "--customer-key-file", self.stage.other_key, codes=[DENIED])
        done = self.do(
            *words, *self.given(volume.under), codes=self.opening(volume, self.is_usable)
        )
        self.check_export(done, volume.image, volume.name)
        if done.code == DONE:
            volume.source, volume.is_lazy = None, False
        if volume.source is None:
            self.check_audit(volume.under, "volume", volume.name, done)

    def check_export(self, done: Done, image: bytes | bytearray, name: str) -> None:
        if done.code == DONE:
            assert self.stage.out.read_bytes() == image, f"{name} reads wrong\n{self}"
            self.stage.out.unlink()
        assert not self.stage.out.exists(), f"something is left of {name}\n{self}"

    def check_audit(self, under: str, kind: str, name: str, done: Done, who: str = "root") -> None:
        """The use of a key, or that it was refused, is on record with who and what for."""
        if under not in self.keys or (kind == "snapshot" and self.keys[under].state == "Gone"):
            return  # requests for a key that is not there name none
        about = ["--key", self.keys[under].arn]
        if kind == "volume":  # what a snapshot is under is bound to its volume, or to itself
            about = ["--volume", self.listed(kind)[name]["VolumeId"]]
        records = self.stage.ok(
            *("--json", "audit", "list", "--operation", "Decrypt", "--last", "1"), *about
        )["Records"]
        assert records, f"no use of {name} is on record\n{self}"
        record = records[0]
        assert record["userIdentity"]["arn"].endswith(f":{who}"), f"{record}\n{self}"
        if done.code == DONE:
            assert record["errorCode"] is None, f"{record}\n{self}"
        elif not self.is_usable(under) or who != "root":
            assert record["errorCode"] is not None, f"{record}\n{self}"
