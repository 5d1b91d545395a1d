"""The formats of a home that have no test of their golden bytes elsewhere."""

import pytest

from tests.formats.home_samples import LUKS, SAMPLES, VERSIONS, decode_luks
from tests.golden import golden_bytes


@pytest.mark.parametrize("name", SAMPLES)
def test_golden_bytes_are_known_values(name: str) -> None:
    data = golden_bytes(f"v{VERSIONS.get(name, 1)}", name)
    assert SAMPLES[name].decode(data) == SAMPLES[name].value
    assert SAMPLES[name].encode() == data


def test_a_header_of_cryptsetup() -> None:
    assert decode_luks(golden_bytes("v1", "luks2-header")) == LUKS
