"""The second copy of a record: what is believed of it, and who is told of a newer one."""

import msgspec
import pytest

from tests.formats.samples import COPIED, COPY_SEAL
from volcrypt.errors import IntegrityError
from volcrypt.formats.document import MacSeal
from volcrypt.formats.record_copy import encode_record_copy
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.names import DataKeyId, VolumeId
from volcrypt.operations.record_copies import RecordCopies

OTHER_SEAL = MacSeal(b"another data key".ljust(32))


class MemoryPlace:
    """Where one copy lies."""

    location = "the place of the copy"

    def __init__(self, data: bytes | None) -> None:
        self.data = data

    def read(self) -> bytes | None:
        return self.data

    def write(self, data: bytes) -> None:
        self.data = data

    def remove(self) -> None:
        self.data = None


def changed(*, counter: int, **members: object) -> VolumeRecord:
    return msgspec.structs.replace(COPIED, counter=counter, **members)


def check(data: bytes | None, record: VolumeRecord = COPIED) -> bool:
    return RecordCopies(MemoryPlace(data), COPY_SEAL).check(record)


def under_another_key(counter: int) -> bytes:
    """As a home leaves it that gave the volume another data key."""
    assert COPIED.wrapped_key is not None
    key = msgspec.structs.replace(COPIED.wrapped_key, data_key_id=DataKeyId("dk-00000000000000bad"))
    return encode_record_copy(changed(counter=counter, wrapped_key=key), OTHER_SEAL)


def test_only_one_that_says_the_same_is_good() -> None:
    good = encode_record_copy(COPIED, COPY_SEAL)
    assert check(good)
    assert check(good, changed(counter=COPIED.counter, name="as it is called here"))
    assert not check(None)
    assert not check(b"junk")
    assert not check(good[:-3] + b"00\n")
    assert not check(good, changed(counter=COPIED.counter + 1))
    foreign = changed(counter=9, volume_id=VolumeId("vol-0123456789abcdef0"))
    assert not check(encode_record_copy(foreign, COPY_SEAL))


@pytest.mark.parametrize("is_rekeyed", [False, True])
def test_a_newer_one_of_another_home_is_told(is_rekeyed: bool) -> None:
    newer = COPIED.counter + 1
    data = encode_record_copy(changed(counter=newer, size_bytes=2**30), COPY_SEAL)
    with pytest.raises(IntegrityError, match="another home has changed volume") as caught:
        check(under_another_key(newer) if is_rekeyed else data)
    assert "the place of the copy" in str(caught.value.hint)
    assert not check(under_another_key(COPIED.counter))
