"""Records and the register: found, believed, changed together, and never an older one."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.record_files import damage_both, write_both
from volcrypt.errors import (
    NameTakenError,
    RecordMissingError,
    RollbackError,
    TryAgainError,
    VolumeNotFoundError,
)
from volcrypt.kms.register import Register, RegisterEntry
from volcrypt.operations.home import Home
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.records import load_record, load_records, save_records
from volcrypt.operations.volumes import create_volume

PLAIN = KeyChoice(encrypted=False)


def test_by_id_and_by_name(home: Home) -> None:
    record = create_volume(home, size_bytes=4096, name="one", choice=PLAIN)
    assert load_record(home, "one") == load_record(home, record.volume_id) == record
    assert load_records(home) == {record.volume_id: record}
    with pytest.raises(VolumeNotFoundError):
        load_record(home, "two")


def test_two_volumes_swap_names_at_once(home: Home) -> None:
    one = create_volume(home, size_bytes=4096, name="one", choice=PLAIN)
    two = create_volume(home, size_bytes=8192, name="two", choice=PLAIN)
    save_records(
        home,
        put=[
            msgspec.structs.replace(one, counter=2, name="two"),
            msgspec.structs.replace(two, counter=2, name="one"),
        ],
    )
    assert load_record(home, "one").volume_id == two.volume_id
    assert load_record(home, "two").volume_id == one.volume_id


def test_a_change_of_what_has_changed_is_refused(home: Home) -> None:
    one = create_volume(home, size_bytes=4096, name="one", choice=PLAIN)
    save_records(home, put=[msgspec.structs.replace(one, counter=2, name="new")])
    with pytest.raises(TryAgainError):
        save_records(home, put=[msgspec.structs.replace(one, counter=2, name="late")])
    assert load_record(home, one.volume_id).name == "new"
    other = create_volume(home, size_bytes=4096, name="other", choice=PLAIN)
    with pytest.raises(NameTakenError):
        save_records(home, put=[msgspec.structs.replace(other, counter=2, name="new")])
    assert load_record(home, "other") == other


def test_what_has_changed_is_not_forgotten(home: Home) -> None:
    one = create_volume(home, size_bytes=4096, name="one", choice=PLAIN)
    save_records(home, put=[msgspec.structs.replace(one, counter=2, name="new")])
    with pytest.raises(TryAgainError):
        save_records(home, delete=[one])
    assert load_record(home, "new").counter == 2


def test_a_record_lies_ready_before_the_register_names_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = create_volume(home, size_bytes=4096, name="one", choice=PLAIN)
    apply, ready = Register.apply, []

    def watched(register: Register, *, put: Sequence[RegisterEntry], **others: Any) -> None:
        staged = (home.volumes.path_of(one.volume_id) / "record.next").read_bytes()
        ready.append(hashlib.sha256(staged).digest() == put[0].digest)
        apply(register, put=put, **others)

    monkeypatch.setattr(Register, "apply", watched)
    save_records(home, put=[msgspec.structs.replace(one, counter=2, name="new")])
    assert ready == [True]


def test_an_older_record_with_a_good_seal_is_refused(home: Home) -> None:
    one = create_volume(home, size_bytes=4096, name="one", choice=PLAIN)
    path = home.volumes.path_of(one.volume_id) / "record"
    shutil.copy(path, path.with_name("older"))
    save_records(home, put=[msgspec.structs.replace(one, counter=2, name="new")])
    write_both(path, path.with_name("older").read_bytes())
    with pytest.raises(RollbackError):
        load_record(home, "new")
    damage_both(path, Path.unlink)
    with pytest.raises(RecordMissingError):
        load_record(home, "new")


def test_a_staged_record_that_the_register_names_is_put_in_place(home: Home) -> None:
    """What a kill between the transaction and the last rename leaves."""
    one = create_volume(home, size_bytes=4096, name="one", choice=PLAIN)
    directory = home.volumes.path_of(one.volume_id)
    shutil.copy(directory / "record", directory / "older")
    save_records(home, put=[msgspec.structs.replace(one, counter=2, name="new")])
    (directory / "record").rename(directory / "record.next")
    for name in ("record", "record.spare"):
        shutil.copy(directory / "older", directory / name)
    assert load_record(home, "new").counter == 2
    assert not (directory / "record.next").exists()
    assert home.volumes.has_spare(one.volume_id)


def test_a_staged_record_that_never_became_current_is_nothing(home: Home) -> None:
    one = create_volume(home, size_bytes=4096, name="one", choice=PLAIN)
    directory = home.volumes.path_of(one.volume_id)
    (directory / "record.next").write_bytes(b"volcrypt volume 1\n{}\n00\n")
    assert load_record(home, "one") == one
