"""A volume under a customer-provided key whose data lies outside of the home: the copy of its
record is under its data key, so what writes that needs the key too; another home takes it over."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Command, disposable_home

SIZE = 2 * 2**20


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[tuple[Command, Command]]:
    """Two, with a KMS each that the other knows nothing of."""
    (tmp_path / "right").write_bytes(os.urandom(32))
    (tmp_path / "wrong").write_bytes(os.urandom(32))
    (tmp_path / "mnt").mkdir()
    with (
        disposable_home(tmp_path / "one" / "home") as first,
        disposable_home(tmp_path / "two" / "home") as second,
    ):
        for command in (first, second):
            command.home.parent.mkdir(exist_ok=True)
            command.run("init")
        yield first, second


@pytest.mark.usefixtures("cheap_keyslots")
def test_growing_and_exporting_keep_the_copy(
    homes: tuple[Command, Command], tmp_path: Path
) -> None:
    first, second = homes
    data, right = tmp_path / "data", ["--customer-key-file", str(tmp_path / "right")]
    first.run("volume", "create", "--size", str(SIZE), "--name", "a", "--data", data, *right)
    grow = ["volume", "grow", "a", "--size", str(2 * SIZE)]
    assert "customer-provided key, and none was given" in first.fails(2, *grow)
    first.fails(5, *grow, "--customer-key-file", tmp_path / "wrong")
    assert (first.json("volume", "show", "a")["Size"], data.stat().st_size) == (SIZE, SIZE)
    first.run(*grow, *right)
    (tmp_path / "word").write_text("correct horse")
    word = ["--passphrase-file", str(tmp_path / "word")]
    first.run("volume", "export-header", "a", tmp_path / "header", *word, *right)
    second.run("volume", "register", "--data", data, *right)
    shown = second.json("volume", "show", "a")
    assert shown["Size"] == 2 * SIZE
    assert shown["HeaderExportTime"] == first.json("volume", "show", "a")["HeaderExportTime"]
    assert shown["HeaderExportTime"] is not None


def test_another_home_takes_it_over(homes: tuple[Command, Command], tmp_path: Path) -> None:
    first, second = homes
    data, right = tmp_path / "data", ["--customer-key-file", str(tmp_path / "right")]
    first.run("volume", "create", "--size", str(SIZE), "--name", "a", "--data", data, *right)
    first.run("mount", "a", tmp_path / "mnt", *right)
    (tmp_path / "mnt/volume").write_bytes(content := os.urandom(SIZE))
    first.run("unmount", "a")
    register = ["volume", "register", "--data", str(data)]
    assert "none was given" in second.fails(2, *register)
    second.fails(5, *register, "--customer-key-file", tmp_path / "wrong")
    second.fails(5, *register, *right, "--kms-key-id", "alias/volcrypt/ebs")
    assert second.json("volume", "list")["Volumes"] == []
    second.run(*register, *right)
    assert second.json("volume", "show", "a")["KeySource"] == "customer"
    second.run("volume", "export", "--yes", "a", tmp_path / "out", *right)
    assert (tmp_path / "out").read_bytes() == content
    # One under a KMS key takes no customer's.
    first.run("volume", "create", "--size", "1MiB", "--name", "b", "--data", tmp_path / "other")
    complaint = first.fails(2, "volume", "register", "--data", tmp_path / "other", *right)
    assert "is not under a customer-provided key" in complaint
    first.fails(2, "volume", "grow", "b", "--size", "2MiB", *right)
