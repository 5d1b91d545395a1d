"""Volume and snapshot commands as a user of the KMS: each permission is needed, and what is denied
leaves nothing behind; grants of mounts, through kills and keys that are taken away."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command import Command, disposable_home

WITHOUT_FUSE = 'mount --bind /dev/null /dev/fuse; exec "$@"'
ALL = (
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:Decrypt",
    "kms:CreateGrant",
    "kms:DescribeKey",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
    "kms:ListKeys",
)


class Alice:
    """A user of a home, with a policy that changes; and the account root, who changes it."""

    def __init__(self, root: Command) -> None:
        self.root = root
        root.run("principal", "create", "alice")
        (root.home / "config.toml").write_text("[profiles.alice]\nprincipal = 'alice'\n")

    def may(self, *actions: str) -> None:
        statement = {"Effect": "Allow", "Action": list(actions) or "kms:None", "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.root.run("principal", "put-policy", "alice", "-", stdin=document.encode())

    def run(self, *arguments: str | Path) -> str:
        return self.root.run("--profile", "alice", *arguments)

    def fails(self, code: int, *arguments: str | Path) -> str:
        return self.root.fails(code, "--profile", "alice", *arguments)


@pytest.fixture(scope="module")
def alice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alice]:
    root = tmp_path_factory.mktemp("principals")
    (root / "image").write_bytes(os.urandom(2**20))
    with disposable_home(root / "home") as command:
        command.run("init")
        key = command.run("kms", "create-key")
        command.run("kms", "create-alias", "--alias-name", "alias/a", "--target-key-id", key)
        other = command.run("kms", "create-key")
        command.run("kms", "create-alias", "--alias-name", "alias/b", "--target-key-id", other)
        options = ("--kms-key-id", "alias/a", "--name")
        command.run("volume", "import", root / "image", *options, "data")
        command.run("snapshot", "create", "--wait", "data", "--name", "first")
        command.run("volume", "create", "--size", "1MiB", "--unencrypted", "--name", "plain")
        yield Alice(command)


def state_of(command: Command) -> Any:
    """Everything that a denied command must leave as it was."""
    volumes = command.json("volume", "list")["Volumes"]
    snapshots = command.json("snapshot", "list")["Snapshots"]
    files = sorted(
        str(path.relative_to(command.home))
        for part in ("volumes", "work")
        for path in (command.home / part).rglob("*")
        if path.name not in ("owner", "change-map")
    )
    workflows = command.json("status")["Workflows"]
    return volumes, snapshots, files, workflows


COMMANDS = [
    (("volume", "create", "--size", "1MiB", "--kms-key-id", "alias/a"), ALL[:1]),
    (("volume", "import", "IMAGE", "--kms-key-id", "alias/a"), ALL[:2]),
    (("volume", "export", "--yes", "data", "OUT"), ("volcrypt:ExportVolume", "kms:Decrypt")),
    (("volume", "check", "data"), ("kms:Decrypt",)),
    (("snapshot", "export", "--yes", "first", "OUT"), ("volcrypt:ExportSnapshot", "kms:Decrypt")),
    (("mount", "data", "POINT"), ("kms:Decrypt", "kms:CreateGrant")),
    (("volume", "create", "--snapshot-id", "first"), ("kms:ReEncryptFrom", "kms:ReEncryptTo")),
    (
        ("volume", "create", "--snapshot-id", "first", "--kms-key-id", "alias/b"),
        ("kms:GenerateDataKeyWithoutPlaintext", "kms:Decrypt"),
    ),
    (
        ("snapshot", "copy", "--wait", "first", "--kms-key-id", "alias/a"),
        ("kms:DescribeKey", "kms:ReEncryptFrom", "kms:ReEncryptTo"),
    ),
    (
        ("snapshot", "copy", "--wait", "first", "--kms-key-id", "alias/b"),
        ("kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:Decrypt"),
    ),
    (
        ("encrypt", "plain", "--kms-key-id", "alias/a", "--keep-old"),
        (
            "kms:GenerateDataKeyWithoutPlaintext",
            "kms:ReEncryptFrom",
            "kms:ReEncryptTo",
            "kms:Decrypt",
        ),
    ),
]


@pytest.mark.parametrize(
    ("words", "needed"), COMMANDS, ids=lambda value: " ".join(value).replace("kms:", "")
)
def test_each_permission_is_needed(
    alice: Alice, tmp_path: Path, words: tuple[str, ...], needed: tuple[str, ...]
) -> None:
    """Without any one of them: exit code 5, a reason, and nothing made. With all: done."""
    (tmp_path / "point").mkdir()
    (tmp_path / "image").write_bytes(b"x" * 4096)
    places = {name.upper(): str(tmp_path / name) for name in ("image", "out", "point")}
    arguments = [places.get(word, word) for word in words]
    before = state_of(alice.root)
    for missing in needed:
        alice.may(*(action for action in needed if action != missing))
        complaint = alice.fails(5, *arguments)
        assert "not authorized" in complaint or "not allowed" in complaint
        assert "hint:" in complaint
        assert state_of(alice.root) == before, missing
        assert not (tmp_path / "out").exists()
    alice.may(*needed)
    alice.run(*arguments)
    if words[0] == "mount":
        alice.run("unmount", "data")


def test_a_backup_needs_its_own_permission(alice: Alice, tmp_path: Path) -> None:
    (tmp_path / "word").write_text("x")
    arguments = ("backup", tmp_path / "file", "--passphrase-file", tmp_path / "word")
    alice.may("kms:*", "iam:*")
    assert "volcrypt:Backup" in alice.fails(5, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["word"]
    alice.may("volcrypt:Backup")
    alice.run(*arguments)


def test_who_may_not_list_keys_has_a_status_still(alice: Alice) -> None:
    alice.may()
    assert json.loads(alice.run("--json", "status"))["Keys"] is None
    assert "you may not list the keys" in alice.run("status")


def test_a_principal_that_does_not_exist(alice: Alice) -> None:
    config = alice.root.home / "config.toml"
    before = config.read_text()
    config.write_text("[profiles.default]\nprincipal = 'nobody'\n")
    try:
        assert "nobody" in alice.root.fails(3, "kms", "list-keys")
        assert "nobody" in alice.root.fails(3, "volume", "create", "--size", "1MiB")
    finally:
        config.write_text(before)


def grants_of(command: Command) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = command.json("kms", "list-grants", "--key-id", key_a(command))[
        "Grants"
    ]
    return found


def key_a(command: Command) -> str:
    key = command.json("kms", "describe-key", "--key-id", "alias/a")["KeyMetadata"]
    return str(key["KeyId"])


def test_a_mount_has_a_grant_for_its_volume_alone(alice: Alice, tmp_path: Path) -> None:
    root = alice.root
    (tmp_path / "mnt").mkdir()
    root.run("mount", "data", tmp_path / "mnt")
    (grant,) = grants_of(root)
    volume_id = root.json("volume", "show", "data")["VolumeId"]
    assert grant["Operations"] == ["Decrypt", "DescribeKey", "RetireGrant"]
    assert grant["Constraints"] == {
        "EncryptionContextEquals": {"volcrypt:volume-id": volume_id},
    }
    assert ":assumed-role/volcrypt:host/" in grant["GranteePrincipal"]
    root.run("unmount", "data")
    assert grants_of(root) == []
    assert not (root.home / "volumes" / volume_id / "grant").exists()


def test_a_killed_mount_leaves_one_grant_that_is_used_again(alice: Alice, tmp_path: Path) -> None:
    root = alice.root
    point = tmp_path / "mnt"
    point.mkdir()
    root.run("mount", "data", point)
    (grant,) = grants_of(root)
    root.kill_processes()
    subprocess.run(["umount", "--lazy", point], check=True)
    root.run("mount", "data", point)
    assert [found["GrantId"] for found in grants_of(root)] == [grant["GrantId"]]
    root.kill_processes()
    subprocess.run(["umount", "--lazy", point], check=True)
    # Whatever command opens the KMS next ends it.
    root.run("volume", "list")
    assert grants_of(root) == []


def test_closing_needs_neither_pin_nor_permission(alice: Alice, tmp_path: Path) -> None:
    root = alice.root
    point = tmp_path / "mnt"
    point.mkdir()
    pin = root.home / "kms" / "pin"
    kept = pin.read_bytes()
    root.run("mount", "data", point)
    pin.unlink()
    try:
        root.run("unmount", "data")
    finally:
        pin.write_bytes(kept)
        pin.chmod(0o600)
    assert not os.path.ismount(point)
    root.run("volume", "list")
    assert grants_of(root) == []


def test_a_mount_that_fails_leaves_no_grant(alice: Alice, tmp_path: Path) -> None:
    root = alice.root
    point = tmp_path / "mnt"
    point.mkdir()
    # The process that is to serve finds no FUSE.
    done = root.try_run(
        *("mount", "data", str(point)),
        prefix=(
            "unshare",
            "--mount",
            "sh",
            "-c",
            WITHOUT_FUSE,
            "-",
        ),
    )
    assert done.returncode == 1, done.stderr
    assert grants_of(root) == []
