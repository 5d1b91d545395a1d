"""Where the PIN comes from, and what is refused."""

from pathlib import Path

import pytest

from tests.command import disposable_home
from volcrypt.cli.pin import read_secret
from volcrypt.errors import ConfigurationError, InvalidArgumentError
from volcrypt.pin_source import configured_pin
from volcrypt.settings import KmsSettings


def write(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_from_a_file_of_its_owner_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "pin", b"1234\n")
    settings = KmsSettings(pin_file=str(path))
    assert configured_pin(settings, tmp_path) == bytearray(b"1234")
    assert configured_pin(KmsSettings(pin_file="pin"), tmp_path) == bytearray(b"1234")
    for mode in (0o640, 0o604, 0o620, 0o660):
        path.chmod(mode)
        with pytest.raises(ConfigurationError, match="read by others"):
            configured_pin(settings, tmp_path)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(write(tmp_path / "pin", b"1234"))
    for name in ("absent", "link", "."):
        with pytest.raises(ConfigurationError):
            configured_pin(KmsSettings(pin_file=name), tmp_path)
    for data in (b"", b"\n", b"one\ntwo\n", b"x" * 5000):
        write(tmp_path / "pin", data)
        with pytest.raises(ConfigurationError):
            configured_pin(KmsSettings(pin_file="pin"), tmp_path)


def test_from_a_command(tmp_path: Path) -> None:
    settings = KmsSettings(pin_command=["printf", "%s\\n", "12 34"])
    assert configured_pin(settings, tmp_path) == bytearray(b"12 34")
    for command, problem in (
        (["false"], "ended with code 1"),
        (["true"], "not one line"),
        (["no-such-program"], "No such file"),
    ):
        with pytest.raises(ConfigurationError, match=problem):
            configured_pin(KmsSettings(pin_command=command), tmp_path)


def test_settings_go_before_the_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "volcrypt.pin", b"from systemd\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert configured_pin(KmsSettings(), tmp_path) == bytearray(b"from systemd")
    settings = KmsSettings(pin_command=["echo", "from a command"])
    assert configured_pin(settings, tmp_path) == bytearray(b"from a command")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    assert configured_pin(KmsSettings(), tmp_path) is None


def test_secrets_from_files(tmp_path: Path) -> None:
    assert read_secret(write(tmp_path / "a", b"two words\r\n"), "passphrase") == b"two words"
    for data in (b"", b"\n", b"x" * 5000):
        with pytest.raises(InvalidArgumentError, match="passphrase"):
            read_secret(write(tmp_path / "a", data), "passphrase")


def test_a_home_opens_with_a_pin_file_and_a_pin_command(tmp_path: Path) -> None:
    with disposable_home(tmp_path / "home") as command:
        command.run("init", "--pin-file", "-", stdin=b"a PIN of ours\n")
        command.fails(1, "kms", "list-keys")
        config = command.home / "config.toml"
        pin = write(tmp_path / "pin", b"a PIN of ours\n")
        config.write_text(f"[kms]\npin_file = '{pin}'\n")
        command.run("kms", "list-keys")
        assert command.json("config", "check")["Exists"] is True
        pin.chmod(0o644)
        assert f"chmod 600 {pin}" in command.fails(1, "kms", "list-keys")
        assert str(pin) in command.fails(1, "config", "check")
        config.write_text(f"[kms]\npin_command = ['cat', '{pin}']\n")
        command.run("kms", "list-keys")
        assert command.json("config", "show")["kms"]["pin_command"] == ["cat", str(pin)]
        assert "kms.pin_command" in command.run("config", "show")
