"""`status` of what is not where it should be."""

import shutil

import pytest

from volcrypt.errors import StoreNotFoundError
from volcrypt.operations.home import Home
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.records import data_path
from volcrypt.operations.status import read_status
from volcrypt.operations.stores import find_local_store, open_local_store
from volcrypt.operations.volumes import create_volume


def test_data_that_is_gone_deserves_attention(home: Home) -> None:
    record = create_volume(home, size_bytes=2**20, name="data", choice=KeyChoice())
    path = data_path(home, record)
    said = f"the data of data is not there: {path}"
    assert said not in read_status(home).warnings, "the control"
    path.unlink()
    assert said in read_status(home).warnings


def test_a_local_store_that_is_gone_says_what_to_do(home: Home) -> None:
    open_local_store(home)
    home.open_stores.clear()
    shutil.rmtree(home.stores_path / "local")
    with pytest.raises(StoreNotFoundError) as refused:
        find_local_store(home)
    assert refused.value.hint is not None
    assert "--store" in refused.value.hint
    assert any("store create local" in warning for warning in read_status(home).warnings)
