"""A home's token: it goes and comes back, also under the hands of another process."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pkcs11.exceptions import DeviceError

from tests.softhsm import PIN, make_master, new_home_token
from volcrypt.errors import (
    HsmUnavailableError,
    IntegrityError,
    RecordMissingError,
    WrongPinError,
)
from volcrypt.formats.token_image import decode_token_image
from volcrypt.kms import home_token
from volcrypt.kms.home_token import HomeToken, open_home_token
from volcrypt.kms.model import WrappedMaterial
from volcrypt.kms.pin import HeldPin
from volcrypt.kms.pkcs11_session import logged_in
from volcrypt.kms.token import MASTER


@pytest.fixture
def token(memory_path: Path) -> Iterator[HomeToken]:
    with new_home_token(memory_path) as made:
        yield made


def files_of_copy(home: Path) -> list[Path]:
    """The files that SoftHSM works on."""
    return [path for path in home.glob("run/token-*/tokens/**/*") if path.is_file()]


def remove_all(home: Path) -> None:
    for path in files_of_copy(home):
        path.unlink()


def truncate_all(home: Path) -> None:
    for path in files_of_copy(home):
        os.truncate(path, 0)


def garble_all(home: Path) -> None:
    for path in files_of_copy(home):
        if path.suffix == ".object":
            path.write_bytes(os.urandom(path.stat().st_size))


@pytest.mark.parametrize("harm", [remove_all, truncate_all, garble_all])
def test_a_token_that_breaks_under_the_process_comes_back(
    memory_path: Path, token: HomeToken, harm: Callable[[Path], None]
) -> None:
    material = token.generate_material()
    sealed = token.encrypt(material, plaintext=bytearray(b"text"), aad=b"")
    mac = token.mac(b"x")
    assert files_of_copy(memory_path)
    harm(memory_path)
    failures = 0
    for call in (token.generate_material, lambda: token.mac(b"x")) * 2:
        try:
            call()
        except HsmUnavailableError:
            failures += 1
    assert failures == 1
    assert token.decrypt(material, sealed=sealed, aad=b"") == b"text"
    assert token.mac(b"x") == mac
    assert files_of_copy(memory_path)
    assert len(list(memory_path.glob("run/token-*"))) == 1


def test_what_is_wrapped_is_not_called_damaged_when_the_token_is(
    memory_path: Path, token: HomeToken
) -> None:
    material = token.generate_material()
    sealed = token.encrypt(material, plaintext=bytearray(b"text"), aad=b"")
    token._connected()._forget_all()
    garble_all(memory_path)
    with pytest.raises(HsmUnavailableError):
        token.decrypt(material, sealed=sealed, aad=b"")
    assert token.decrypt(material, sealed=sealed, aad=b"") == b"text"


def test_a_device_error_costs_one_call(token: HomeToken, monkeypatch: pytest.MonkeyPatch) -> None:
    store = token._connected()

    def fail(*_: object, **__: object) -> None:
        raise DeviceError

    monkeypatch.setattr(store, "_mac_key", type("Key", (), {"sign": fail})())
    with pytest.raises(HsmUnavailableError, match="did not answer: DeviceError"):
        token.mac(b"x")
    token.mac(b"x")
    assert token._connected() is not store


def test_a_missing_master_is_said_until_it_is_back(memory_path: Path, token: HomeToken) -> None:
    master = memory_path / "token" / MASTER
    away = master.with_name("away")
    master.rename(away)
    token.mac(b"x")  # who is logged in goes on
    token.close()
    for _ in range(2):
        with pytest.raises(RecordMissingError):
            token.mac(b"x")
    away.rename(master)
    token.mac(b"x")


def test_a_refused_pin_is_not_tried_again(
    memory_path: Path, token: HomeToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    token.close()
    logins: list[str] = []

    def counted(where: object, pin: HeldPin) -> object:
        logins.append("login")
        return logged_in(where, pin)  # type: ignore[arg-type]

    monkeypatch.setattr(home_token, "logged_in", counted)
    monkeypatch.setattr(token, "_pin", HeldPin(bytearray(b"another")))
    for _ in range(3):
        with pytest.raises(WrongPinError, match="the PIN does not open the token"):
            token.mac(b"x")
    assert logins == ["login"]


def test_a_process_with_an_older_copy_opens_the_new_master(
    memory_path: Path, token: HomeToken
) -> None:
    material = token.generate_material()
    sealed = token.encrypt(material, plaintext=bytearray(b"text"), aad=b"")
    program = (
        "import sys; from pathlib import Path\n"
        "from tests.softhsm import PIN\n"
        "from volcrypt.kms.home_token import open_home_token\n"
        "from volcrypt.kms.model import WrappedMaterial\n"
        "home = Path(sys.argv[1])\n"
        "old = WrappedMaterial(blob=bytes.fromhex(sys.argv[2]), wrapping_key=1)\n"
        "with open_home_token(home / 'token', home / 'run', PIN) as token:\n"
        "    (new,) = token.rewrap([old])\n"
        "    token.retire(older_than=2)\n"
        "    print(new.blob.hex())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, memory_path, material.blob.hex()],
        check=True,
        capture_output=True,
        text=True,
    )
    # Nothing is made under a wrapping key that is gone, and nothing gone is used from memory.
    assert token.generate_material().wrapping_key == 2
    rewrapped = type(material)(blob=bytes.fromhex(done.stdout.strip()), wrapping_key=2)
    assert token.decrypt(rewrapped, sealed=sealed, aad=b"") == b"text"
    with pytest.raises(IntegrityError, match="does not have"):
        token.decrypt(material, sealed=sealed, aad=b"")


def test_who_read_its_key_before_it_was_rewrapped_still_decrypts(token: HomeToken) -> None:
    material = token.generate_material()
    sealed = token.encrypt(material, plaintext=bytearray(b"text"), aad=b"")
    token.rewrap([material])
    token.retire(older_than=2)
    assert token.decrypt(material, sealed=sealed, aad=b"") == b"text"


def test_a_retired_key_is_in_no_file_of_the_token(memory_path: Path, token: HomeToken) -> None:
    master = memory_path / "token" / MASTER
    before = decode_token_image(master.read_bytes(), what="").files
    token.rewrap([])
    both = decode_token_image(master.read_bytes(), what="").files
    with master.open("rb") as old:
        token.retire(older_than=2)
        assert set(old.read()) == {0}
    after = decode_token_image(master.read_bytes(), what="").files
    gone = before.keys() - after.keys()
    assert before.keys() < both.keys()
    assert len(after) == len(before)
    (key,) = (name for name in gone if name.endswith(".object"))
    assert before[key] not in after.values()
    with pytest.raises(IntegrityError, match="does not have"):
        token.encrypt(
            WrappedMaterial(blob=bytes(40), wrapping_key=1), plaintext=bytearray(1), aad=b""
        )


def test_the_pin_is_held_where_nobody_reads_it(memory_path: Path) -> None:
    make_master(memory_path / "token", memory_path / "run")
    pin = bytearray(PIN)
    with open_home_token(memory_path / "token", memory_path / "run", pin) as token:
        held = token._pin
        pin[:] = bytes(len(pin))  # the caller may wipe its own
        token.close()
        token.mac(b"x")
        assert PIN.decode() not in repr((token, held))
        assert is_locked(held)
        with pytest.raises(TypeError):
            held.__reduce__()
    with pytest.raises(ValueError, match="wiped"):
        held.text()


def is_locked(pin: HeldPin) -> bool:
    """Whether the kernel keeps the PIN's page out of swap and of core files."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(pin._page))
    lines = Path("/proc/self/smaps").read_text().splitlines()
    is_inside = False
    for line in lines:
        first, _, rest = line.partition(" ")
        if "-" in first and ":" not in first:
            start, end = (int(part, 16) for part in first.split("-"))
            is_inside = start <= address < end
        elif is_inside and first == "VmFlags:":
            return {"lo", "dd"} <= set(rest.split())
    return False


def test_no_copy_is_left(memory_path: Path) -> None:
    with new_home_token(memory_path) as token:
        token.rewrap([token.generate_material()])
    assert os.listdir(memory_path / "run") == ["token.lock"]
