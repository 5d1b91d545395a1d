"""The exerciser itself: it must see what is wrong, or what it finds right means nothing."""

import os
from pathlib import Path

import pytest

from tests.fsx import Exerciser, MismatchError, Options
from volcrypt.geometry import SECTOR_BYTES

OPTIONS = Options(seed=5, operations=400)


def exerciser(directory: Path, options: Options = OPTIONS) -> Exerciser:
    return Exerciser(directory / "file", options, directory=directory)


def test_a_good_file_system_passes_and_a_seed_repeats_its_run(tmp_path: Path) -> None:
    first, second = (exerciser(tmp_path).run() for _ in range(2))
    assert first == second
    assert set(first) == {
        *("forget", "mapread", "mapwrite", "punch", "read", "reopen", "sync", "truncate"),
        *("verify", "write", "zero"),
    }


class Damaging(Exerciser):
    """Damages the last byte of the file behind the model's back, before the last look at it."""

    damage: str

    def _finish(self) -> None:
        with self.path.open("r+b") as file:
            end = file.seek(-1, os.SEEK_END)
            if self.damage == "bit":
                (byte,) = os.pread(file.fileno(), 1, end)
                os.pwrite(file.fileno(), bytes([byte ^ 1]), end)
            else:
                file.truncate(end)
        self._check_size()
        super()._finish()


@pytest.mark.parametrize(("damage", "said"), [("bit", "instead of"), ("size", "size is")])
def test_damage_is_found_and_told(tmp_path: Path, damage: str, said: str) -> None:
    damaging = Damaging(tmp_path / "file", OPTIONS, directory=tmp_path)
    damaging.damage = damage
    with pytest.raises(MismatchError, match=said) as caught:
        damaging.run()
    assert "seed 5" in caught.value.__notes__[0]
    assert "***" in (tmp_path / "fsx.log").read_text()
    assert (tmp_path / "fsx.expected").exists()


def test_a_size_that_changes_is_no_fixed_size(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(64 * SECTOR_BYTES))
    options = Options(seed=5, size_bytes=64 * SECTOR_BYTES, fixed_size=True, longest_bytes=4096)
    with pytest.raises(MismatchError, match="truncated"):
        exerciser(tmp_path, options).run()
