"""DataKey holds 64 bytes, checks them, shows them to nobody and forgets them."""

import copy
import pickle

import pytest

from volcrypt.crypto.data_key import DATA_KEY_BYTES, DataKey
from volcrypt.crypto.xts import XtsKernel

KEY = bytes(range(64))


def test_it_takes_ownership_and_wipes() -> None:
    material = bytearray(KEY)
    data_key = DataKey(material)
    view = data_key.view()
    assert view == KEY
    assert view.readonly
    data_key.wipe()
    assert material == bytes(DATA_KEY_BYTES)
    assert view == bytes(DATA_KEY_BYTES)
    data_key.wipe()
    with pytest.raises(ValueError, match="was wiped"):
        data_key.view()
    with pytest.raises(ValueError, match="was wiped"):
        data_key.kernel()


def test_the_context_wipes_also_when_something_fails() -> None:
    material = bytearray(KEY)
    with pytest.raises(ValueError, match="whole data units"), DataKey(material) as data_key:
        data_key.kernel().encrypt_units(0, bytes(1), bytearray(1))
    assert material == bytes(DATA_KEY_BYTES)


@pytest.mark.parametrize("length", [0, 16, 63, 65, 128])
def test_a_wrong_length_is_refused_and_wiped(length: int) -> None:
    material = bytearray(b"\x07" * length)
    with pytest.raises(ValueError, match="64 bytes"):
        DataKey(material)
    assert material == bytes(length)


def test_a_key_for_aes_128_is_refused_and_wiped() -> None:
    material = bytearray(range(32))
    with pytest.raises(ValueError, match="64 bytes"):
        DataKey(material)
    assert material == bytes(32)


def test_equal_halves_are_refused_and_wiped() -> None:
    material = bytearray(KEY[:32] * 2)
    with pytest.raises(ValueError, match="must differ"):
        DataKey(material)
    assert material == bytes(DATA_KEY_BYTES)


def test_kernels_work_under_this_key_and_outlive_it() -> None:
    data_key = DataKey(bytearray(KEY))
    kernel = data_key.kernel()
    data_key.wipe()
    ours, expected = bytearray(4096), bytearray(4096)
    kernel.encrypt_units(1, bytes(4096), ours)
    XtsKernel(KEY).encrypt_units(1, bytes(4096), expected)
    assert ours == expected


def test_it_is_never_shown_compared_copied_or_serialised() -> None:
    one, other = DataKey(bytearray(KEY)), DataKey(bytearray(KEY))
    assert repr(one) == str(one) == "<DataKey>"
    assert one != other
    for serialise in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never serialised"):
            serialise(one)
    assert not hasattr(one, "__dict__")
