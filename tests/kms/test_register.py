"""The register of records."""

from hashlib import sha256

import pytest

from tests.fakes.kms import MemoryKms
from volcrypt.errors import NameTakenError, TryAgainError
from volcrypt.kms.register import RegisterEntry


def entry(id_: str, *, name: str | None = None, counter: int = 1) -> RegisterEntry:
    digest = sha256(f"{id_} {counter}".encode()).digest()
    return RegisterEntry(kind="volume", id=id_, name=name, counter=counter, digest=digest)


def test_what_was_put_is_found(kms: MemoryKms) -> None:
    register = kms.service.register
    register.apply(put=[entry("b", name="beta"), entry("a")])
    assert register.get("volume", "b") == entry("b", name="beta")
    assert register.find("volume", "beta") == entry("b", name="beta")
    assert register.entries("volume") == [entry("a"), entry("b", name="beta")]
    assert register.get("snapshot", "b") is None
    assert register.find("volume", "alpha") is None
    assert register.entries("snapshot") == []


def test_deleting(kms: MemoryKms) -> None:
    register = kms.service.register
    register.apply(put=[entry("a", name="n")])
    register.apply(delete=[("volume", "a")], put=[entry("b", name="n")])
    assert register.entries("volume") == [entry("b", name="n")]


def test_what_is_expected_must_be_there(kms: MemoryKms) -> None:
    register = kms.service.register
    register.apply(put=[entry("a")], expect={("volume", "a"): None})
    register.apply(put=[entry("a", counter=2)], expect={("volume", "a"): 1})
    for expected in (None, 1, 3):
        with pytest.raises(TryAgainError, match="volume a was changed by another command"):
            register.apply(
                put=[entry("a", counter=3), entry("b")], expect={("volume", "a"): expected}
            )
    assert register.entries("volume") == [entry("a", counter=2)]


def test_a_taken_name_changes_nothing(kms: MemoryKms) -> None:
    register = kms.service.register
    register.apply(put=[entry("a", name="n")])
    with pytest.raises(NameTakenError, match="a volume named n exists already"):
        register.apply(put=[entry("c"), entry("b", name="n")])
    assert register.entries("volume") == [entry("a", name="n")]


def test_names_swap_in_one_step(kms: MemoryKms) -> None:
    register = kms.service.register
    register.apply(put=[entry("a", name="data"), entry("b")])
    register.apply(put=[entry("a"), entry("b", name="data")])
    assert register.find("volume", "data") == entry("b", name="data")
