"""Volumes whose keys are in another KMS, and commands of a home that a daemon serves."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Command, disposable_home
from tests.wire.served import Served, served
from tests.wire.signing import ACCESS_KEY, SECRET


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("other")) as made:
        yield made


@pytest.fixture
def moto_url() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.mark.parametrize("kind", ["volcrypt", "moto"])
def test_keys_of_volumes_are_in_another_kms(
    kind: str,
    daemon: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    url = daemon.url if kind == "volcrypt" else request.getfixturevalue("moto_url")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    (tmp_path / "mnt").mkdir()
    plain = os.urandom(2**20)
    (tmp_path / "image").write_bytes(plain)
    with disposable_home(tmp_path / "home") as command:
        command.run("init")
        settings = command.home / "config.toml"

        profile = f"[profiles.default]\nkms = '{url}'\nregion = 'us-east-1'\n"
        settings.write_text(profile)
        key = command.json("kms", "create-key")["KeyMetadata"]
        # Without a default key only what needs one is refused.
        command.run("status")
        command.run("config", "check")
        said = command.fails(1, "volume", "create", "--size", "1MiB")
        assert "names no default_kms_key" in said
        assert "--kms-key-id" in said
        command.run("volume", "create", "--size", "1MiB", "--unencrypted", "--name", "u")
        command.run("volume", "create", "--size", "1MiB", "--kms-key-id", key["Arn"], "--name", "v")
        for name in ("u", "v"):
            command.run("volume", "delete", name)
        settings.write_text(f"{profile}default_kms_key = '{key['Arn']}'\n")
        made = command.json("volume", "import", tmp_path / "image", "--name", "a")
        assert made["KmsKeyId"] == key["Arn"]
        command.run("mount", "a", tmp_path / "mnt")
        assert (tmp_path / "mnt" / "volume").read_bytes() == plain
        command.run("unmount", "a")
        command.run("snapshot", "create", "--wait", "a", "--name", "s")
        command.run("snapshot", "copy", "--wait", "s", "--name", "t")
        other = command.json("kms", "create-key")["KeyMetadata"]["KeyId"]
        command.run("snapshot", "copy", "--wait", "s", "--name", "u", "--kms-key-id", other)
        command.run("volume", "create", "--snapshot-id", "u", "--name", "b")
        command.run("volume", "export", "--yes", "b", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == plain
        # The home's own KMS was asked for nothing; that plaintext was written is on record here.
        asked = [record["eventName"] for record in command.json("audit", "list")["Records"]]
        assert asked == ["ExportVolume"]
        if kind == "volcrypt":  # moto decrypts with disabled keys too
            command.run("kms", "disable-key", "--key-id", key["KeyId"])
            assert "disabled" in command.fails(5, "mount", "a", tmp_path / "mnt")
        (tmp_path / "word").write_text("x")
        command.run("backup", tmp_path / "file", "--kms-key-id", other)
        with disposable_home(tmp_path / "new") as restored:
            restored.home.mkdir()
            (restored.home / "config.toml").write_bytes(settings.read_bytes())
            restored.run("restore", tmp_path / "file")
            assert len(restored.json("volume", "list")["Volumes"]) == 2


def read_for_ever(path: Path) -> None:
    while True:
        path.read_bytes()


@pytest.mark.parametrize("kind", ["volcrypt", "moto"])
def test_keys_in_another_kms_are_watched(
    kind: str,
    daemon: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """One that does not know DryRun would hand the key out at every check: that is refused."""
    url = daemon.url if kind == "volcrypt" else request.getfixturevalue("moto_url")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    point = tmp_path / "mnt"
    point.mkdir()
    with disposable_home(tmp_path / "home") as command:
        command.run("init")
        settings = (
            "[mounts]\nkey_check_seconds = 1\n[profiles.cloud]\n"
            f"kms = '{url}'\nregion = 'us-east-1'\ndefault_kms_key = "
        )
        (command.home / "config.toml").write_text(f"{settings}'alias/none'\n")
        cloud = ("--profile", "cloud")
        key = command.json(*cloud, "kms", "create-key")["KeyMetadata"]
        (command.home / "config.toml").write_text(f"{settings}'{key['Arn']}'\n")
        volume_id = command.json(*cloud, "volume", "create", "--size", "1MiB")["VolumeId"]
        mount = (*cloud, "mount", volume_id, point, "--on-key-loss", "fence")
        if kind == "moto":
            assert "does not know DryRun" in command.fails(7, *mount)
            assert not point.is_mount()
            return
        command.run(*mount)
        command.run(*cloud, "kms", "disable-key", "--key-id", key["KeyId"])
        with pytest.raises(OSError, match="Input/output error"):
            read_for_ever(point / "volume")
        [used] = command.json("status")["InUse"]
        assert "is disabled" in used["Fenced"]["Reason"]
        command.run("unmount", volume_id)


def test_who_is_not_there_is_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with disposable_home(tmp_path / "home") as command:
        command.run("init")
        (command.home / "config.toml").write_text(
            "[profiles.default]\nkms = 'http://127.0.0.1:9'\nregion = 'us-east-1'\n"
            "default_kms_key = 'alias/a'\n"
        )
        command.fails(7, "volume", "create", "--size", "1MiB")
        assert command.json("volume", "list")["Volumes"] == []


def test_commands_go_through_the_daemon_that_holds_the_home(daemon: Served, tmp_path: Path) -> None:
    command = Command(daemon.home)
    (tmp_path / "mnt").mkdir()
    (tmp_path / "image").write_bytes(b"x" * 2**20)
    # Nobody but the daemon knows the PIN.
    pin = daemon.home / "kms" / "pin"
    hidden = pin.read_bytes()
    pin.unlink()
    try:
        command.run("volume", "import", tmp_path / "image", "--name", "a")
        command.run("mount", "a", tmp_path / "mnt")
        assert (tmp_path / "mnt" / "volume").read_bytes() == b"x" * 2**20
        command.run("unmount", "a")
        command.run("snapshot", "create", "--wait", "a", "--name", "s")
        command.run("snapshot", "copy", "--wait", "s", "--name", "t")
        command.run("kms", "list-keys")
        assert command.json("status")["Volumes"]["Total"] == 1
        assert command.json("audit", "verify")["UnsealedRecords"] == 0
        (tmp_path / "word").write_text("correct horse")
        command.run("backup", tmp_path / "file", "--passphrase-file", tmp_path / "word")
        with disposable_home(tmp_path / "new") as restored:
            restored.run("restore", tmp_path / "file", "--passphrase-file", tmp_path / "word")
            (restored.home / "kms" / "pin").write_bytes(hidden)
            restored.run("audit", "verify")
    finally:
        pin.write_bytes(hidden)
