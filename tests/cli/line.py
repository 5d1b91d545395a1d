"""The command line without a home: what operations are asked is caught before they begin."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

import volcrypt as package
from volcrypt.cli.main import volcrypt
from volcrypt.cli.session import Session
from volcrypt.crypto.customer_key import CustomerKey
from volcrypt.crypto.data_key import DataKey
from volcrypt.settings import KmsSettings, MountSettings, Settings

KEYS = {"own": bytes(range(32)), "source": bytes(range(32, 64))}
WRAPPED = {
    name: CustomerKey(bytearray(material)).wrap(DataKey(bytearray(range(64))))
    for name, material in KEYS.items()
}
PUBLIC = "ab" * 32

Asked = Mapping[str, Any]


class Caught(Exception):  # noqa: N818 it is no error
    """What an operation was asked."""

    def __init__(self, asked: dict[str, Any]) -> None:
        super().__init__()
        self.asked = asked


@dataclass
class Line:
    """The command line of a home that nobody opens."""

    session: Session
    patch: pytest.MonkeyPatch
    directory: Path

    def stand_in(self, place: str, function: Callable[..., Any]) -> None:
        """For the function at `MODULE:NAME`."""
        module, _, name = place.partition(":")
        self.patch.setattr(importlib.import_module(f"volcrypt.{module}"), name, function)

    def asked(self, place: str, words: str) -> Asked:
        """What the operation at `place` is asked by a command. `words` name files as {dir}/NAME.

        Arguments by position are there by their number, without the home and the session. Members
        of a structure are there by their own names, customer-provided keys by theirs in `KEYS`, and
        those that the home got as `keys`."""

        def caught(*arguments: Any, **keywords: Any) -> None:
            ours = (self.session, self.session.home)
            given = [each for each in arguments if not any(each is one for one in ours)]
            raise Caught({str(at): each for at, each in enumerate(given)} | keywords)

        self.stand_in(place, caught)
        with pytest.raises(Caught) as found:
            self.run(words)
        asked = found.value.asked
        for value in list(asked.values()):
            asked |= members_of(value)
        if asked.get("customer_key") is not None:
            asked["customer_key"] = name_of(asked["customer_key"])
        return asked | {"keys": [name_of(key) for key in self.session.home.customer_keys]}

    def run(self, words: str) -> Any:
        """The code of a command that says it itself."""
        arguments = [word.format(dir=self.directory) for word in words.split()]
        return volcrypt.main(arguments, standalone_mode=False, obj=self.session)


def members_of(value: Any) -> dict[str, Any]:
    if isinstance(value, msgspec.Struct):
        return {name: getattr(value, name) for name in value.__struct_fields__}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return {}


def name_of(key: CustomerKey) -> str:
    (name,) = [name for name, wrapped in WRAPPED.items() if key.opens(wrapped)]
    return name


@pytest.fixture(scope="session")
def all_modules() -> None:
    """Imported before anything stands in for what they import from each other, and would keep."""
    for module in pkgutil.walk_packages(package.__path__, "volcrypt."):
        importlib.import_module(module.name)


@pytest.fixture
def line(all_modules: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    session = Session(home_path=tmp_path / "home")
    home = SimpleNamespace(
        customer_keys=[],
        path=tmp_path / "home",
        runtime=tmp_path / "run",
        region="here",
        account="1",
    )
    settings = Settings(
        mounts=MountSettings(key_check_seconds=17), kms=KmsSettings(regions=["there"])
    )
    session.__dict__ |= {"home": home, "key_home": home, "settings": settings}
    (tmp_path / "file").write_bytes(b"x" * 4096)
    (tmp_path / "point").mkdir()
    (tmp_path / "word").write_text("correct horse\n")
    for name, material in KEYS.items():
        (tmp_path / name).write_bytes(material)
    # That is for processes which work with keys alone.
    for name in ("lock_memory", "wipe_what_is_freed"):
        monkeypatch.setattr(f"volcrypt.confinement.{name}", lambda: None)
    yield Line(session, monkeypatch, tmp_path)
    for key in home.customer_keys:
        key.wipe()
