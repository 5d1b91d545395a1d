"""What is refused before a data key is asked for; what is believed of the copy of a record, and
what becomes of what a home had; and a device that several hosts can reach."""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.command import disposable_home
from tests.fakes.kms import ACCOUNT, REGION, ROOT, memory_kms
from tests.fakes.snapshots import STORE_ID, snapshot_id
from tests.file_system import run
from tests.formats.samples import COPIED, COPY_SEAL
from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.errors import (
    AccessDeniedError,
    CustomerKeyMissingError,
    IntegrityError,
    InvalidArgumentError,
    KmsError,
    NameTakenError,
    RecordMissingError,
    RollbackError,
    SealError,
    StoreNotFoundError,
    VolumeInUseError,
)
from volcrypt.formats import migration
from volcrypt.formats.record_copy import encode_record_copy, portable
from volcrypt.formats.volume_record import KeySource, LazySource, VolumeRecord
from volcrypt.kms.messages.keys import CreateKeyRequest
from volcrypt.kms.register import RegisterEntry
from volcrypt.names import VolumeId
from volcrypt.operations.audit import list_audit
from volcrypt.operations.home import Home
from volcrypt.operations.home_directory import init_home
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.placement import Placement
from volcrypt.operations.record_copies import copy_beside, copy_seal
from volcrypt.operations.records import load_record, load_records, save_records
from volcrypt.operations.registration import CopySource, Registered, register_volume
from volcrypt.operations.vault import Access
from volcrypt.operations.volumes import create_volume
from volcrypt.settings import runtime_root
from volcrypt.volume import block_device
from volcrypt.volume.directory import CHANGE_MAP_FILE, KEEP_DATA_FILE
from volcrypt.volume.owner import hold_volume

MIB = 2**20
RECORD = msgspec.structs.replace(COPIED, data_path="/data", device=None, lease=None)


def register(home: Home, tmp_path: Path, record: VolumeRecord, *, kms_key: str | None) -> None:
    (tmp_path / "data").write_bytes(bytes(record.size_bytes))
    (tmp_path / "copy").write_bytes(encode_record_copy(record, COPY_SEAL))
    source = CopySource(record=tmp_path / "copy")
    register_volume(home, tmp_path / "data", source, kms_key=kms_key)


def with_key(**members: object) -> VolumeRecord:
    assert RECORD.wrapped_key is not None
    wrapped = msgspec.structs.replace(RECORD.wrapped_key, **members)
    return msgspec.structs.replace(RECORD, wrapped_key=wrapped)


def test_a_key_of_another_account_is_not_asked_unless_it_is_named(
    home: Home, tmp_path: Path
) -> None:
    """Its owner may know the data key that it would release."""
    arn = "arn:aws:kms:us-east-1:666666666666:key/00000000-0000-0000-0000-000000000000"
    with pytest.raises(AccessDeniedError, match="belongs to another account") as caught:
        register(home, tmp_path, with_key(kms_key_arn=arn), kms_key=None)
    assert caught.value.hint == f"if that is right: --kms-key-id {arn}"
    assert "Decrypt" not in [record.event_name for record in list_audit(home)]
    # Named, it is asked for; this home's KMS has no such key.
    with pytest.raises(KmsError):
        register(home, tmp_path, with_key(kms_key_arn=arn), kms_key=arn)
    assert "Decrypt" in [record.event_name for record in list_audit(home)]


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        (
            with_key(encryption_context={"volcrypt:volume-id": "vol-0123456789abcdef0"}),
            IntegrityError,
            "bound to something else",
        ),
        (with_key(encryption_context={}), IntegrityError, "bound to something else"),
        (
            msgspec.structs.replace(
                with_key(kms_key_arn=None, encryption_context={}), key_source=KeySource.CUSTOMER
            ),
            CustomerKeyMissingError,
            "customer-provided",
        ),
        (
            msgspec.structs.replace(RECORD, region="eu-west-1"),
            InvalidArgumentError,
            "belongs to region eu-west-1",
        ),
    ],
    ids=["another volume's key", "no context", "customer", "region"],
)
def test_copies_that_are_not_for_this_home(
    home: Home, tmp_path: Path, record: VolumeRecord, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        register(home, tmp_path, record, kms_key=None)
    assert load_records(home) == {}


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A loop device that sysfs calls a Ceph RBD image."""
    image = tmp_path / "disk"
    image.touch()
    os.truncate(image, 2 * MIB)
    made = Path(run("losetup", "--find", "--show", image).strip())
    number = made.stat().st_rdev
    assert stat.S_ISBLK(made.stat().st_mode)
    sysfs = tmp_path / "sys"
    (sysfs / "devices" / "rbd0" / "device").mkdir(parents=True)
    (sysfs / "devices" / "rbd0" / "device" / "image_id").write_text("1022")
    (sysfs / "dev" / "block").mkdir(parents=True)
    link = sysfs / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}"
    link.symlink_to(sysfs / "devices" / "rbd0")
    monkeypatch.setattr(block_device, "SYSFS", sysfs)
    try:
        yield made
    finally:
        run("losetup", "--detach", made)


def test_a_device_that_several_hosts_reach_needs_a_lease_or_a_word(
    home: Home, device: Path
) -> None:
    def create(placement: Placement) -> VolumeRecord:
        choice = KeyChoice()
        return create_volume(home, size_bytes=MIB, name=None, choice=choice, placement=placement)

    with pytest.raises(InvalidArgumentError, match="is a Ceph RBD image, which several") as caught:
        create(Placement(data=device))
    assert caught.value.hint is not None
    assert "--lease STORE" in caught.value.hint
    assert "--single-host" in caught.value.hint
    with pytest.raises(InvalidArgumentError, match="which several hosts can reach"):
        create(Placement(data=device, force=True, assume_zeroed=True))
    made = create(Placement(data=device, single_host=True))
    assert (made.device, made.lease) == ("rbd:1022", None)


class TwoHomes:
    """`first` and `second` with their keys in one KMS, and a volume of the first in a file."""

    def __init__(self, first: Home, second: Home, data: Path) -> None:
        self.first = first
        self.second = second
        self.data = data
        self.copy = copy_beside(data)
        placement = Placement(data=data)
        self.made = create_volume(
            first, size_bytes=MIB, name="orders", choice=KeyChoice(), placement=placement
        )

    def register(self, home: Home, **options: Any) -> Registered:
        return register_volume(home, self.data, CopySource(), **options)

    def altered_copy(self, *, sealed: bool, **members: object) -> bytes:
        """The copy as it is but for some members; sealed by the data key, or with the old seal."""
        record = msgspec.structs.replace(load_record(self.first, "orders"), **members)
        with copy_seal(self.first, record) as seal:
            data = encode_record_copy(record, seal)
        if sealed:
            return data
        seal_length = len(self.copy.read_bytes().splitlines()[-1])
        return data[: -seal_length - 1] + self.copy.read_bytes()[-seal_length - 1 :]


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[TwoHomes]:
    with ExitStack() as stack:
        other = stack.enter_context(memory_kms(tmp_path / "kms"))
        there = other.service.scope(ACCOUNT, REGION)
        key = there.perform(ROOT, CreateKeyRequest()).key_metadata.arn
        access = Access(other_kms=lambda: there, default_kms_key=key)
        opened = []
        for name in ("first", "second"):
            command = stack.enter_context(disposable_home(tmp_path / name))
            init_home(command.home, runtime_root(), account=ACCOUNT, region=REGION, pin=None)
            opened.append(stack.enter_context(Home(command.home, runtime_root(), access=access)))
        # One token is all that a process can hold.
        vault = stack.enter_context(memory_kms(tmp_path / "vault"))
        opened[0].__dict__["vault"] = vault.service
        yield TwoHomes(opened[0], opened[1], tmp_path / "data")


def test_a_volume_is_taken_as_its_record_says(homes: TwoHomes) -> None:
    """The control of what follows."""
    registered = homes.register(homes.second)
    assert registered.known_counter is None
    assert portable(registered.record) == portable(homes.made)
    assert load_record(homes.second, "orders") == registered.record
    directory = homes.second.volumes.path_of(homes.made.volume_id)
    assert not (directory / KEEP_DATA_FILE).exists()
    # Again is fine, and finds nothing new.
    assert homes.register(homes.second).known_counter == homes.made.counter


def test_a_copy_that_the_data_key_did_not_seal_is_not_believed(homes: TwoHomes) -> None:
    created_at = homes.made.created_at + 1
    homes.copy.write_bytes(homes.altered_copy(sealed=False, created_at=created_at))
    with pytest.raises(SealError):
        homes.register(homes.second)
    assert load_records(homes.second) == {}
    homes.copy.write_bytes(homes.altered_copy(sealed=True, created_at=created_at))
    assert homes.register(homes.second).record.created_at == created_at


@pytest.mark.parametrize("counter", [1, 2])
def test_another_record_than_the_known_one_is_newer_or_refused(
    homes: TwoHomes, counter: int
) -> None:
    """Also one of the same number, which two homes made at once."""
    homes.register(homes.second)
    known = msgspec.structs.replace(load_record(homes.second, "orders"), counter=2)
    save_records(homes.second, put=[known])
    homes.copy.write_bytes(homes.altered_copy(sealed=True, created_at=1, counter=counter))
    with pytest.raises(RollbackError) as caught:
        homes.register(homes.second)
    assert caught.value.hint == "volume orders is registered here, and newer"
    assert load_record(homes.second, "orders") == known
    homes.copy.write_bytes(homes.altered_copy(sealed=True, created_at=1, counter=3))
    assert homes.register(homes.second).known_counter == 2
    assert load_record(homes.second, "orders").created_at == 1


def test_a_record_that_was_damaged_here_comes_back_and_no_older_one(homes: TwoHomes) -> None:
    homes.register(homes.second)
    known = msgspec.structs.replace(load_record(homes.second, "orders"), counter=2, name="mine")
    save_records(homes.second, put=[known])
    directory = homes.second.volumes.path_of(known.volume_id)
    for path in directory.glob("record*"):
        path.unlink()
    with pytest.raises(RecordMissingError):
        homes.register(homes.second)
    homes.copy.write_bytes(homes.altered_copy(sealed=True, counter=2))
    assert homes.register(homes.second).record == known
    assert load_record(homes.second, "mine") == known


def test_what_changed_is_not_known_any_more(
    homes: TwoHomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another home may have written since, and marked nothing here."""
    homes.register(homes.second)
    change_map = homes.second.volumes.path_of(homes.made.volume_id) / CHANGE_MAP_FILE
    live_map = homes.second.live_map_path(homes.made.volume_id)
    live_map.parent.mkdir(parents=True, exist_ok=True)
    for path in (change_map, live_map):
        path.write_bytes(b"a map")
    synced: list[tuple[bool, Path]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((change_map.exists(), path))
        real(descriptor)

    monkeypatch.setattr("os.fsync", fsync)
    homes.register(homes.second)
    assert not change_map.exists()
    assert not live_map.exists()
    # Durably, and before the record: a map that a power cut brings back would be believed.
    assert next(path for is_there, path in synced if not is_there) == change_map.parent
    assert not [path for is_there, path in synced if is_there and "record" in path.name]


def test_a_volume_that_is_in_use_here_keeps_its_record(homes: TwoHomes) -> None:
    homes.register(homes.second)
    known = load_record(homes.second, "orders")
    homes.copy.write_bytes(homes.altered_copy(sealed=True, created_at=1, counter=2))
    directory = homes.second.volumes.path_of(known.volume_id)
    with (
        hold_volume(directory, purpose="mount"),
        pytest.raises(VolumeInUseError, match="mount"),
    ):
        homes.register(homes.second)
    work = RegisterEntry(
        kind=migration.KIND, id=known.volume_id, name=None, counter=1, digest=bytes(32)
    )
    homes.second.register.apply(put=[work])
    with pytest.raises(VolumeInUseError, match="unfinished run of encrypt or rekey"):
        homes.register(homes.second)
    assert load_record(homes.second, "orders") == known


def test_the_name_that_it_has_here_stays_and_no_name_is_taken_twice(homes: TwoHomes) -> None:
    homes.register(homes.second, name="here")
    create_volume(homes.second, size_bytes=MIB, name="taken", choice=KeyChoice())
    assert homes.register(homes.second).record.name == "here"
    with pytest.raises(NameTakenError):
        homes.register(homes.second, name="taken")
    assert homes.register(homes.second, name="anew").record.name == "anew"
    assert load_record(homes.second, "anew").volume_id == homes.made.volume_id


def test_a_volume_whose_chunks_are_elsewhere_is_not_taken(homes: TwoHomes) -> None:
    source = LazySource(
        store_id=STORE_ID,
        snapshot_id=snapshot_id(1),
        root=bytes(32),
        size_bytes=MIB,
        digest=DigestAlgorithm.BLAKE3,
        wrapped_key=homes.made.wrapped_key,
        fill_rate=None,
    )
    homes.copy.write_bytes(homes.altered_copy(sealed=True, source=source))
    with pytest.raises(InvalidArgumentError, match="are still in snapshot"):
        homes.register(homes.second)
    assert load_records(homes.second) == {}


def test_a_registration_that_fails_leaves_the_data_and_nothing_else(
    homes: TwoHomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = homes.second.volumes.path_of(homes.made.volume_id)

    def fail(*_arguments: object, **_keywords: object) -> None:
        # Killed here, the record names data that is not this home's to remove.
        assert (directory / KEEP_DATA_FILE).exists()
        raise OSError(5, "no disk")

    with monkeypatch.context() as patch:
        patch.setattr("volcrypt.operations.registration.adopt_record", fail)
        with pytest.raises(OSError, match="no disk"):
            homes.register(homes.second)
    assert not directory.exists()
    assert homes.data.exists()
    assert homes.copy.exists()
    homes.register(homes.second)


def test_the_copy_of_another_volume_is_not_taken(homes: TwoHomes) -> None:
    source = CopySource(record=homes.copy, volume_id=VolumeId("vol-0123456789abcdef0"))
    with pytest.raises(IntegrityError, match=f"it is of volume {homes.made.volume_id}"):
        register_volume(homes.second, homes.data, source)
    assert "Decrypt" not in [record.event_name for record in list_audit(homes.second)]


def test_data_that_is_too_short_is_not_taken(homes: TwoHomes) -> None:
    os.truncate(homes.data, MIB - 4096)
    with pytest.raises(IntegrityError):
        homes.register(homes.second)
    assert load_records(homes.second) == {}


class KeptCopy:
    """A copy in the store of the lease."""

    location = "the store of the lease"

    def __init__(self, data: bytes | None) -> None:
        self.data = data

    def read(self) -> bytes | None:
        return self.data


def test_of_a_volume_with_a_lease_the_newer_of_two_copies_is_taken(
    homes: TwoHomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the file is what somebody kept, and that of the store is written with each change."""

    def leased(counter: int) -> bytes:
        return homes.altered_copy(
            sealed=True, counter=counter, created_at=counter, lease=STORE_ID, device="rbd:1"
        )

    homes.copy.write_bytes(leased(5))
    with pytest.raises(StoreNotFoundError) as caught:
        homes.register(homes.second)
    assert "volcrypt store trust" in str(caught.value.hint)
    assert load_records(homes.second) == {}
    module = "volcrypt.operations.registration"
    monkeypatch.setattr(f"{module}.store_names", lambda _: {STORE_ID: "shared"})
    for in_store, taken in ((None, 5), (leased(4), 5), (leased(6), 6)):
        place = KeptCopy(in_store)
        monkeypatch.setattr(f"{module}.copy_place", lambda *_, place=place: place)
        assert homes.register(homes.second).record.created_at == taken
