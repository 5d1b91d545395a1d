"""Links in a directory that many take and give up names in, on real loop devices."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from volcrypt.errors import VolumeInUseError
from volcrypt.volume import device_links
from volcrypt.volume.device_links import claim_link, free_link, linked_device, release_link
from volcrypt.volume.loop import attach_loop, backing_file

SIZE = 2**20
NOBODYS = Path("/dev/loop-that-never-was")


class Place:
    """Loop devices on what looks like mounts of volumes."""

    def __init__(self, directory: Path) -> None:
        self.links = directory / "links"
        self._directory = directory
        self.loops: list[Path] = []

    def served(self, number: int) -> tuple[Path, Path]:
        """A mount point and a loop device on the volume there."""
        point = self._directory / f"vol-{number:017x}.mnt"
        point.mkdir()
        with (point / "volume").open("wb") as file:
            file.truncate(SIZE)
        loop = attach_loop(point / "volume", sector_size=512, read_only=False)
        self.loops.append(loop)
        return point, loop

    def linked(self, name: str) -> Path | None:
        return linked_device(name, directory=self.links)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    for loop in made.loops:
        if backing_file(loop) is not None:
            subprocess.run(["losetup", "--detach", loop], check=True)


def test_links_are_made_and_removed_and_the_directory_with_the_last(place: Place) -> None:
    first, first_loop = place.served(1)
    second, second_loop = place.served(2)
    assert place.linked("books") is None
    claim_link("books", first_loop, first, directory=place.links)
    claim_link("books", first_loop, first, directory=place.links)
    claim_link("pens", second_loop, second, directory=place.links)
    assert place.linked("books") == first_loop
    release_link("books", first, directory=place.links)
    assert [entry.name for entry in place.links.iterdir()] == ["pens"]
    release_link("pens", first, directory=place.links)
    assert place.linked("pens") == second_loop
    release_link("pens", second, directory=place.links)
    release_link("pens", second, directory=place.links)
    assert not place.links.exists()


def test_a_link_of_another_is_never_replaced(place: Place) -> None:
    first, first_loop = place.served(1)
    second, second_loop = place.served(2)
    claim_link("books", first_loop, first, directory=place.links)
    for take in (
        lambda: claim_link("books", second_loop, second, directory=place.links),
        lambda: free_link("books", second, directory=place.links),
        lambda: device_links.check_link_is_free("books", second, directory=place.links),
    ):
        with pytest.raises(VolumeInUseError, match="another volume, or home") as raised:
            take()
        assert first.stem in str(raised.value.hint)
    device_links.drop_link("books", second_loop, directory=place.links)
    assert place.linked("books") == first_loop
    device_links.check_link_is_free("books", first, directory=place.links)
    device_links.drop_link("books", first_loop, directory=place.links)
    assert not place.links.exists()


def test_a_link_to_nothing_hinders_nobody(place: Place) -> None:
    point, loop = place.served(1)
    place.links.mkdir()
    for name in ("books", "pens", ".pens.new"):
        (place.links / name).symlink_to(NOBODYS)
    device_links.check_link_is_free("books", point, directory=place.links)
    claim_link("books", loop, point, directory=place.links)
    assert place.linked("books") == loop
    device_links.remove_false_links(directory=place.links)
    assert [entry.name for entry in place.links.iterdir()] == ["books"]


def test_of_many_at_once_one_gets_the_name(place: Place) -> None:
    """Also while the directory comes and goes."""
    claimants = [place.served(number) for number in range(4)]

    def take(claimant: tuple[Path, Path]) -> bool:
        point, loop = claimant
        won = False
        for _ in range(100):
            try:
                claim_link("books", loop, point, directory=place.links)
            except VolumeInUseError:
                continue
            won = True
            assert place.linked("books") == loop
            release_link("books", point, directory=place.links)
        return won

    with ThreadPoolExecutor(len(claimants)) as threads:
        assert any(threads.map(take, claimants))
    assert not place.links.exists()
