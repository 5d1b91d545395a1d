"""The table of commands and KMS operations in `operations.keys`: each command is run, and the audit
log says what it asked for, as whom, and with which encryption context."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command import Command, disposable_home

ROOT = "arn:aws:iam::000000000000:root"


class Observed:
    """Runs commands and tells what the KMS was asked for."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self._seen = 0

    def asked(self) -> list[tuple[str, str, str | None]]:
        """(operation, who asked, what its context names), of all requests since the last call;
        the first words of an id are what it is called here."""
        records = self.command.json("audit", "list")["Records"]
        new, self._seen = records[self._seen :], len(records)
        return [
            (record["eventName"], _who(record), _named(record.get("requestParameters") or {}))
            for record in new
            if record["eventType"] == "AwsApiCall"
        ]

    def run(self, *arguments: str | Path) -> list[tuple[str, str, str | None]]:
        self.asked()
        self.command.run(*arguments)
        return self.asked()


def _who(record: dict[str, Any]) -> str:
    identity = record["userIdentity"]
    who = "host" if ":assumed-role/volcrypt:host/" in identity["arn"] else "caller"
    return who + (" by volumes" if identity.get("invokedBy") else "")


def _named(parameters: dict[str, Any]) -> str | None:
    """The kinds of object that the contexts of a request name, in the order of the members."""
    found = [
        value.partition("-")[0]
        for name, context in parameters.items()
        if name.lower().endswith("encryptioncontext") and isinstance(context, dict)
        for value in context.values()
    ]
    return " to ".join(found) or None


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    root = tmp_path_factory.mktemp("table")
    (root / "image").write_bytes(os.urandom(2**20))
    (root / "mnt").mkdir()
    with disposable_home(root / "home") as command:
        command.run("init")
        command.run("kms", "create-key")
        command.run("volume", "import", root / "image", "--name", "data")
        command.run("volume", "create", "--size", "1MiB", "--unencrypted", "--name", "plain")
        command.run("snapshot", "create", "--wait", "data", "--name", "first")
        yield Observed(command)


GENERATE = "GenerateDataKeyWithoutPlaintext"
BY_VOLUMES = "caller by volumes"


def key_of(observed: Observed) -> str:
    keys = observed.command.json("kms", "list-keys")["Keys"]
    found = [observed.command.json("kms", "describe-key", "--key-id", k["KeyId"]) for k in keys]
    mine = [k["KeyMetadata"] for k in found if k["KeyMetadata"]["KeyManager"] == "CUSTOMER"]
    return str(mine[0]["KeyId"])


def test_volumes(observed: Observed, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"x" * 4096)
    assert observed.run("volume", "create", "--size", "1MiB") == [(GENERATE, BY_VOLUMES, "vol")]
    assert observed.run("volume", "create", "--size", "1MiB", "--unencrypted") == []
    assert observed.run("volume", "import", tmp_path / "image") == [
        (GENERATE, BY_VOLUMES, "vol"),
        ("Decrypt", BY_VOLUMES, "vol"),
        ("Decrypt", BY_VOLUMES, "vol"),
    ]
    assert observed.run("volume", "export", "--yes", "data", tmp_path / "out") == [
        ("ExportVolume", "caller", "vol"),
        ("Decrypt", BY_VOLUMES, "vol"),
    ]
    assert observed.run("volume", "check", "data") == [("Decrypt", BY_VOLUMES, "vol")]
    assert observed.run("volume", "list") == observed.run("volume", "show", "data") == []
    # Of the default key, which is the only one that volumes are under here.
    asked = [("ListKeys", "caller", None), ("DescribeKey", BY_VOLUMES, None)]
    assert observed.run("status") == observed.run("doctor") == asked


def test_volumes_with_a_copy_of_their_record(observed: Observed, tmp_path: Path) -> None:
    path = tmp_path / "data"
    decrypt = ("Decrypt", BY_VOLUMES, "vol")
    create = ("volume", "create", "--size=1MiB", "--data", path, "--name", "elsewhere")
    assert observed.run(*create) == [(GENERATE, BY_VOLUMES, "vol"), decrypt]
    assert observed.run("volume", "grow", "elsewhere", "--size=2MiB") == [decrypt]
    by_default = [("DescribeKey", BY_VOLUMES, None), decrypt]
    assert observed.run("volume", "register", "--data", path) == by_default
    key = observed.command.json("volume", "show", "elsewhere")["KmsKeyId"]
    register = ("volume", "register", "--data", path, "--kms-key-id", key)
    assert observed.run(*register) == [decrypt]
    assert observed.run("volume", "delete", "elsewhere", "--keep-data") == []


@pytest.mark.usefixtures("cheap_keyslots")
def test_exported_headers(observed: Observed, tmp_path: Path) -> None:
    (tmp_path / "word").write_text("correct horse")
    word = ("--passphrase-file", tmp_path / "word")
    observed.command.run("volume", "create", "--size", "1MiB", "--name", "leaving")
    assert observed.run("volume", "export-header", "leaving", tmp_path / "header", *word) == [
        ("ExportHeader", "caller", "vol"),
        ("Decrypt", BY_VOLUMES, "vol"),
    ]


def test_customer_keys(observed: Observed, tmp_path: Path) -> None:
    """Asked for nothing, but what a KMS key on the other side takes."""
    (tmp_path / "key").write_bytes(b"k" * 32)
    (tmp_path / "image").write_bytes(b"x" * 4096)
    point = tmp_path / "mnt"
    point.mkdir()
    own = ("--customer-key-file", tmp_path / "key")
    source = ("--source-customer-key-file", tmp_path / "key")
    observed.asked()
    run = observed.command.run
    run("volume", "import", tmp_path / "image", "--name", "own", *own)
    run("volume", "check", "own", *own)
    run("mount", "own", point, *own)
    run("unmount", "own")
    run("snapshot", "create", "--wait", "own", "--name", "own-1")
    run("volume", "create", "--snapshot-id", "own-1", *own)
    run("snapshot", "copy", "--wait", "own-1", "--name", "own-2", *own)
    run("volume", "create", "--size", "1MiB", "--unencrypted", "--name", "to-own")
    run("encrypt", "to-own", *own)
    assert observed.asked() == []
    assert observed.run("volume", "export", "--yes", "own", tmp_path / "out", *own) == [
        ("ExportVolume", "caller", "vol")
    ]
    assert observed.run("volume", "create", "--snapshot-id", "first", *own) == [
        ("Decrypt", BY_VOLUMES, "vol")
    ]
    made = observed.run("snapshot", "copy", "--wait", "own-1", "--name", "own-3", *source)
    assert made == [
        ("DescribeKey", BY_VOLUMES, None),
        (GENERATE, BY_VOLUMES, "snap"),
        ("Decrypt", BY_VOLUMES, "snap"),
    ]


def test_volumes_from_snapshots(observed: Observed) -> None:
    made = observed.run("volume", "create", "--snapshot-id", "first", "--name", "copy")
    assert made == [("ReEncrypt", BY_VOLUMES, "vol to vol")]
    assert observed.run("volume", "delete", "copy") == []
    key = key_of(observed)
    other = ("volume", "create", "--snapshot-id", "first", "--kms-key-id", key, "--name", "other")
    assert observed.run(*other) == [
        (GENERATE, BY_VOLUMES, "vol"),
        ("Decrypt", BY_VOLUMES, "vol"),
    ]
    point = observed.command.home.parent / "mnt"
    assert observed.run("mount", "other", point, "--fill-rate", "0") == [
        ("Decrypt", BY_VOLUMES, "vol"),
        ("Decrypt", BY_VOLUMES, "vol"),
        ("CreateGrant", BY_VOLUMES, None),
        ("Decrypt", "host by volumes", "vol"),
    ]
    assert observed.run("unmount", "other") == [("RetireGrant", "host by volumes", None)]
    assert observed.run("volume", "export", "--yes", "other", point.with_name("out")) == [
        ("ExportVolume", "caller", "vol"),
        ("Decrypt", BY_VOLUMES, "vol"),
        ("Decrypt", BY_VOLUMES, "vol"),
        ("Decrypt", BY_VOLUMES, "vol"),
    ]
    assert observed.run("mount", "first", point) == [("Decrypt", BY_VOLUMES, "vol")]
    assert observed.run("unmount", "first") == []


def test_snapshots(observed: Observed, tmp_path: Path) -> None:
    assert observed.run("snapshot", "create", "--wait", "data", "--name", "second") == []
    assert observed.run("snapshot", "list") == observed.run("snapshot", "verify") == []
    assert observed.run("snapshot", "export", "--yes", "first", tmp_path / "out") == [
        ("ExportSnapshot", "caller", "snap"),
        ("Decrypt", BY_VOLUMES, "vol"),
    ]
    assert observed.run("snapshot", "copy", "--wait", "first", "--name", "same") == [
        ("DescribeKey", BY_VOLUMES, None),
        ("ReEncrypt", BY_VOLUMES, "vol to snap"),
    ]
    key = key_of(observed)
    assert observed.run(
        "snapshot", "copy", "--wait", "first", "--name", "other", "--kms-key-id", key
    ) == [
        ("DescribeKey", BY_VOLUMES, None),
        (GENERATE, BY_VOLUMES, "snap"),
        ("Decrypt", BY_VOLUMES, "vol"),
        ("Decrypt", BY_VOLUMES, "snap"),
    ]
    assert observed.run(
        "snapshot", "copy", "--wait", "second", "--name", "more", "--kms-key-id", key
    ) == [
        ("DescribeKey", BY_VOLUMES, None),
        ("ReEncrypt", BY_VOLUMES, "snap to snap"),
        ("Decrypt", BY_VOLUMES, "vol"),
        ("Decrypt", BY_VOLUMES, "snap"),
    ]
    assert observed.run("snapshot", "delete", "second") == []


def test_stores(observed: Observed, tmp_path: Path) -> None:
    run = observed.command.run
    store, url = ("--store", "away"), (tmp_path / "store").as_uri()
    observed.asked()
    run("store", "create", "away", "--url", url)
    for command in ("show", "check"):
        run("store", command, "away")
    root = run("store", "public-key", "away")
    run("store", "trust", "away", "--signer", run("store", "public-key", "away", "--signer"))
    run("snapshot", "create", "--wait", "data", "--name", "there", *store)
    run("snapshot", "verify", *store)
    run("store", "list")
    with disposable_home(tmp_path / "other") as other:
        other.run("init")
        other.run("store", "trust", "away", "--url", url, "--public-key", root)
        assert Observed(other).asked() == []
    assert observed.asked() == []
    assert observed.run("snapshot", "copy", "--wait", "first", "--name", "moved", *store) == [
        ("DescribeKey", BY_VOLUMES, None),
        ("ReEncrypt", BY_VOLUMES, "vol to snap"),
    ]
    run("volume", "create", "--snapshot-id", "moved")
    run("snapshot", "delete", "moved")
    assert observed.asked() == [("ReEncrypt", BY_VOLUMES, "snap to vol")]


def test_mounts(observed: Observed) -> None:
    point = observed.command.home.parent / "mnt"
    mounted = observed.run("mount", "data", point)
    unmounted = observed.run("unmount", "data")
    assert mounted == [
        ("Decrypt", BY_VOLUMES, "vol"),
        ("CreateGrant", BY_VOLUMES, None),
        ("Decrypt", "host by volumes", "vol"),
    ]
    assert unmounted == [("RetireGrant", "host by volumes", None)]
    fenceable = observed.run("mount", "data", point, "--on-key-loss", "fence")
    # The checks that follow the first one are every 20 s.
    assert fenceable == [
        *mounted,
        ("DescribeKey", "host by volumes", None),
        ("Decrypt", "host", "vol"),
    ]
    observed.command.run("unmount", "data")
    assert observed.run("mount", "plain", point) == []
    assert observed.run("unmount", "plain") == []


def test_encrypt(observed: Observed) -> None:
    observed.command.run("volume", "create", "--size", "1MiB", "--unencrypted", "--name", "old")
    assert observed.run("encrypt", "old", "--kms-key-id", key_of(observed)) == [
        (GENERATE, BY_VOLUMES, "snap"),
        ("ReEncrypt", BY_VOLUMES, "snap to vol"),
        ("Decrypt", BY_VOLUMES, "vol"),
        ("Decrypt", BY_VOLUMES, "snap"),
        ("Decrypt", BY_VOLUMES, "vol"),
    ]


def test_settings(observed: Observed) -> None:
    run = observed.run
    assert run("settings", "get") == []
    name = ("settings", "set", "encryption-by-default")
    assert run(*name, "on") == [("EnableEbsEncryptionByDefault", "caller", None)]
    made = run("volume", "create", "--size", "1MiB")
    assert made == [(GENERATE, BY_VOLUMES, "vol")], "as without the setting"
    assert run(*name, "off") == [("DisableEbsEncryptionByDefault", "caller", None)]
    name = ("settings", "set", "default-kms-key")
    assert run(*name, key_of(observed)) == [
        ("DescribeKey", BY_VOLUMES, None),
        (GENERATE, BY_VOLUMES, "vol"),
        ("ModifyEbsDefaultKmsKeyId", "caller", None),
    ]
    assert run(*name, "none") == [("ResetEbsDefaultKmsKeyId", "caller", None)]


def test_reports(observed: Observed) -> None:
    key = key_of(observed)
    of_a_key = [
        ("DescribeKey", BY_VOLUMES, None),
        ("ListKeyRotations", "caller", None),
        ("GetKeyRotationStatus", "caller", None),
        ("ListAliases", "caller", None),
    ]
    assert observed.run("report", "key", key) == [("DescribeKey", "caller", None), *of_a_key]
    observed.asked()
    assert observed.command.try_run("report", "encryption").returncode == 8
    asked = observed.asked()
    assert asked[:4] == of_a_key
    assert set(asked) == set(of_a_key)


def test_backup(observed: Observed, tmp_path: Path) -> None:
    (tmp_path / "word").write_text("correct horse")
    made = observed.run("backup", tmp_path / "file", "--passphrase-file", tmp_path / "word")
    assert made == [("Backup", "caller", None)]


def test_encrypt_in_use_and_rekey(observed: Observed, tmp_path: Path) -> None:
    run = observed.run
    observed.command.run("volume", "create", "--size", "1MiB", "--unencrypted", "--name", "in-use")
    (tmp_path / "point").mkdir()
    observed.command.run("mount", "in-use", str(tmp_path / "point"))
    opened = ("Decrypt", BY_VOLUMES, "vol")
    granted = [opened, ("CreateGrant", BY_VOLUMES, None), ("Decrypt", "host by volumes", "vol")]
    # Tried, begun, and afresh to compare; the grant of the mount is for the new key then.
    moved = [(GENERATE, BY_VOLUMES, "vol"), opened, opened, opened, *granted]
    assert run("encrypt", "in-use", "--online", "--kms-key-id", key_of(observed)) == moved
    assert run("rekey", "in-use") == moved
    retired = ("RetireGrant", "host by volumes", None)
    assert run("rekey", "in-use", "--kms-key-id", "alias/volcrypt/ebs") == [*moved, retired]
    observed.command.run("unmount", "in-use")
    mounted = [*moved[:2], *granted, *moved[2:], retired]
    assert run("rekey", "in-use") == mounted
