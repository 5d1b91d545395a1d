"""Homes as earlier releases wrote them (`golden_home.py`): all that is in them can be had, changed,
and gone on with, by today's code."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.command import Command, disposable_home
from tests.golden_home import CONTEXT, Facts, facts_of, releases, unit_of, unpack
from volcrypt import __version__
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.operations.home import Home
from volcrypt.operations.stores import load_place, save_place
from volcrypt.settings import runtime_root


class Old:
    """A home of a release, unpacked in `directory`."""

    def __init__(self, release: str, directory: Path, command: Command) -> None:
        self.release = release
        self.facts: Facts = facts_of(release)
        self.directory = directory
        self.command = command
        self.run = command.run
        self.json = command.json
        (directory / "customer-key").write_bytes(self.facts.customer_key)
        (directory / "passphrase").write_text(self.facts.passphrase)
        (directory / "point").mkdir()

    def find_shared_store(self) -> None:
        """Nothing but its place is bound to where it was made."""
        with Home(self.command.home, runtime_root()) as home:
            url = (self.directory / "shared").as_uri()
            save_place(home, "shared", msgspec.structs.replace(load_place(home, "shared"), url=url))

    def customer_key(self, volume: str) -> list[str]:
        is_by_customer = volume == "customer"
        return ["--customer-key-file", f"{self.directory}/customer-key"] if is_by_customer else []

    def content(self, volume: str, command: Command | None = None) -> bytes:
        return self._exported("volume", volume, command)

    def snapshot_content(self, snapshot: str) -> bytes:
        return self._exported("snapshot", snapshot)

    def _exported(self, kind: str, name: str, command: Command | None = None) -> bytes:
        out = self.directory / "out"
        customer_key = self.customer_key(name)
        (command or self.command).run(kind, "export", "--yes", name, out, *customer_key)
        data = out.read_bytes()
        out.unlink()
        return data

    def mounted(self, volume: str) -> bytes:
        """Read through a mount, as programs do."""
        self.run("mount", volume, self.directory / "point", *self.customer_key(volume))
        data = (self.directory / "point" / "volume").read_bytes()
        self.run("unmount", volume)
        return data

    def unit(self, volume: str, offset: int) -> None:
        self.run("mount", volume, self.directory / "point")
        with open(self.directory / "point" / "volume", "r+b", buffering=0) as file:
            file.seek(offset)
            file.write(unit_of(f"by {__version__} "))
        self.run("unmount", volume)


@pytest.fixture(params=releases())
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Old]:
    unpack(request.param, tmp_path)
    with disposable_home(tmp_path / "home") as command:
        made = Old(request.param, tmp_path, command)
        made.find_shared_store()
        yield made


def test_there_is_one_of_this_release() -> None:
    is_released = "dev" not in __version__
    assert not is_released or __version__ in releases(), 'see "Golden files" in tests/README.md'


def test_keys_and_what_they_encrypted(old: Old) -> None:
    facts, kms = old.facts, ("kms",)
    old.run("audit", "verify", "--expect-head", facts.audit_head)
    for name, key in facts.keys.items():
        found = old.json(*kms, "describe-key", "--key-id", key)["KeyMetadata"]
        assert (found["KeyState"], found["Description"]) == (facts.states[name], f"the key {name}")
    old.run(*kms, "enable-key", "--key-id", facts.keys["disabled"])
    for blob in facts.blobs:
        (old.directory / "blob").write_bytes(blob.ciphertext)
        decrypt = (*kms, "decrypt", "--ciphertext-blob", f"fileb://{old.directory / 'blob'}")
        context = ",".join(f"{key}={value}" for key, value in blob.context.items())
        opened = old.json(*decrypt, "--encryption-context", context)
        plaintext = msgspec.convert(opened["Plaintext"], bytes, strict=False)
        assert (blob.what, opened["KeyId"], plaintext) == (blob.what, blob.key_id, blob.plaintext)
        old.command.fails(6, *decrypt, "--encryption-context", "purpose=other")
    rotated = facts.keys["rotated"]
    old.run(*kms, "rotate-key-on-demand", "--key-id", rotated)
    tags = old.json(*kms, "list-resource-tags", "--key-id", rotated)["Tags"]
    assert tags == [{"TagKey": "team", "TagValue": "storage"}]
    (grant,) = old.json(*kms, "list-grants", "--key-id", rotated)["Grants"]
    constraints = {"EncryptionContextSubset": {"purpose": CONTEXT["purpose"]}}
    assert (grant["Name"], grant["Constraints"]) == ("for-tests", constraints)
    aliases = old.json(*kms, "list-aliases")["Aliases"]
    assert {each["AliasName"]: each.get("TargetKeyId") for each in aliases}["alias/app"] == rotated
    (known,) = old.json("principal", "list-access-keys", "alice")["AccessKeyMetadata"]
    assert known["AccessKeyId"] == facts.access_key["AccessKeyId"]
    (store,) = old.json(*kms, "describe-custom-key-stores")["CustomKeyStores"]
    assert (store["CustomKeyStoreName"], store["ConnectionState"]) == ("second", "DISCONNECTED")
    old.run(*kms, "cancel-key-deletion", "--key-id", facts.keys["pending"])
    setting = old.json("settings", "get", "default-kms-key")
    assert facts.keys["created"] in str(setting)
    old.run("audit", "verify", "--expect-head", facts.audit_head)


def test_volumes_are_read_and_written(old: Old) -> None:
    whole = {name: content.bytes() for name, content in old.facts.volumes.items()}
    for name in ("secret", "app", "tail", "customer"):
        assert old.content(name) == whole[name], name
    assert old.mounted("secret") == whole["secret"]
    assert old.mounted("lazy") == whole["lazy"]
    old.unit("secret", CHUNK_BYTES)
    assert old.content("secret")[CHUNK_BYTES:].startswith(f"by {__version__} ".encode())
    registered = old.json("volume", "register", "--data", old.directory / "carried")
    assert registered["Name"] == "carried"
    assert old.mounted("carried") == whole["carried"]


def test_records_get_spares(old: Old) -> None:
    done = old.command.try_run("volume", "list")
    assert (done.returncode, done.stderr) == (0, "")
    records = list(old.command.home.glob("volumes/*/record"))
    assert records
    for record in records:
        assert record.with_name("record.spare").read_bytes() == record.read_bytes()


def test_snapshots_verify_and_are_gone_on_with(old: Old) -> None:
    facts = old.facts
    heads = [f"--expect-head={head}" for head in facts.log_heads]
    old.run("snapshot", "verify", *heads[:1])
    old.run("snapshot", "verify", "--store", "shared", *heads[1:])
    by_key = ("--store-url", (old.directory / "shared").as_uri())
    old.run("snapshot", "verify", *by_key, "--public-key", facts.store_public_keys["shared"])
    for name, content in facts.snapshots.items():
        assert old.snapshot_content(name) == content.bytes(), name
    # What was written after the last one is all that the next one stores.
    old.run("snapshot", "create", "--wait", "secret", "--name", "third")
    third = old.json("snapshot", "show", "third")
    assert third["StoredChunks"] == 1
    old.run("snapshot", "copy", "third", "--store", "shared", "--name", "third-too", "--wait")
    create = ("volume", "create", "--snapshot-id", "third-too", "--name", "restored")
    old.run(*create)
    assert old.mounted("restored") == facts.volumes["secret"].bytes()
    for name in ("first", "moved"):
        old.run("snapshot", "delete", name)
    assert old.snapshot_content("second") == facts.snapshots["second"].bytes()


def test_what_was_begun_is_finished(old: Old) -> None:
    workflows = old.json("status")["Workflows"]
    assert len(workflows) == 2
    for name, options in (("plain", []), ("moving", ["--online", "--resume"])):
        old.run("encrypt", name, *options)
        assert old.json("volume", "show", name)["Encrypted"]
        assert old.content(name) == old.facts.volumes[name].bytes()
    assert old.json("status")["Workflows"] == []


def test_a_backup_is_restored(old: Old) -> None:
    volumes = {each["Name"]: each["VolumeId"] for each in old.json("volume", "list")["Volumes"]}
    with disposable_home(old.directory / "restored") as restored:
        passphrase = ("--passphrase-file", old.directory / "passphrase")
        restored.run("restore", old.directory / "backup", *passphrase)
        for name in ("app", "tail"):
            data = Path("volumes", volumes[name], "data")
            shutil.copy(old.command.home / data, restored.home / data)
            assert old.content(name, restored) == old.facts.volumes[name].bytes()
