"""The real image, and the comparison that must see every difference."""

import os
import subprocess
from pathlib import Path

import pytest

from scripts.sample_image import (
    RealFile,
    copy_files,
    differences,
    make_ext4,
    read_tree,
    select_files,
)

MIB = 2**20


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    for number in range(40):
        path = directory / f"d{number % 7}" / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(number * 1000))
    (directory / "link").symlink_to("d1")
    (directory / "huge").write_bytes(bytes(9 * MIB))
    os.mkfifo(directory / "pipe")
    return directory


def test_selection(source: Path) -> None:
    every = select_files(source, 100 * MIB)
    assert sorted(file.size_bytes for file in every) == [number * 1000 for number in range(40)]
    assert select_files(source, 100 * MIB) == every
    some = select_files(source, 200_000)
    assert 0 < sum(file.size_bytes for file in some) <= 200_000
    assert set(some) < set(every)
    assert select_files(source, 0) == []


def test_what_is_in_the_image_is_what_was_copied(source: Path, tmp_path: Path) -> None:
    content, image, mounted = tmp_path / "content", tmp_path / "image", tmp_path / "mounted"
    tree = copy_files(select_files(source, 100 * MIB), source, content)
    assert len(tree.digests) == 40
    make_ext4(image, content, 16 * MIB)
    assert image.stat().st_size == 16 * MIB
    mounted.mkdir()
    subprocess.run(["mount", "-o", "loop,ro", image, mounted], check=True)
    try:
        found = read_tree(mounted)
    finally:
        subprocess.run(["umount", mounted], check=True)
    assert found == tree
    assert differences(tree, found) == []


def test_every_kind_of_difference_is_seen(source: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    tree = copy_files(select_files(source, 100 * MIB), source, copied)
    changed = copied / "d3" / "file 3"
    changed.write_bytes(changed.read_bytes()[:-1] + b"?")
    (copied / "d4" / "file 4").unlink()
    (copied / "added").touch()
    (copied / "d5" / "file 5").write_bytes(b"")
    assert differences(tree, read_tree(copied)) == [
        "added is not one of ours",
        "d3/file 3 has other content",
        "d4/file 4 is missing",
        "d5/file 5 has other content",
    ]


def test_files_that_do_not_fit_are_refused(source: Path, tmp_path: Path) -> None:
    content = tmp_path / "content"
    (source / "huge").write_bytes(os.urandom(9 * MIB))
    copy_files([RealFile(source / "huge", 9 * MIB)], source, content)
    with pytest.raises(RuntimeError, match="mke2fs failed: "):
        make_ext4(tmp_path / "image", content, 2 * MIB)
