"""Work on a home whose disk is logged, and what a power cut must leave of it.

As a program this is the work, on a home that is not there yet:

    python -m tests.crash.logged_home HOME POINT NOTES LOG [online]

With `online` it is a volume in use that is encrypted and gets another data key, and nothing else.
After each thing that was acknowledged it appends a line to NOTES: how many entries the disk's log
had by then, and what it was. `check` then looks at a home as it was found.
"""

import hashlib
import json
import os
import struct
import sys
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tests.block_log import entries_in
from tests.planes import data_plane
from tests.snapshots import create_snapshot
from volcrypt.errors import KeyDisabledError, VolcryptError
from volcrypt.geometry import CHUNK_BYTES, SECTOR_BYTES, UNIT_BYTES
from volcrypt.operations.audit import list_audit, verify_audit
from volcrypt.operations.copy_creation import copy_snapshot
from volcrypt.operations.encrypt import encrypt_volume
from volcrypt.operations.home import Home
from volcrypt.operations.home_directory import init_home
from volcrypt.operations.images import import_volume
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.mounts import mount_volume, unmount_volume
from volcrypt.operations.online import has_migration, migrate_volume
from volcrypt.operations.progress import SILENT
from volcrypt.operations.records import load_record
from volcrypt.operations.snapshot_deletion import delete_snapshot
from volcrypt.operations.snapshot_export import export_snapshot
from volcrypt.operations.snapshot_lookup import list_snapshots
from volcrypt.operations.vault import call
from volcrypt.operations.verification import verify_snapshots
from volcrypt.operations.volume_export import export_volume
from volcrypt.operations.volumes import check_volume, create_volume
from volcrypt.operations.watching import Watching
from volcrypt.operations.workflows import load_workflows
from volcrypt.settings import DEFAULT_ACCOUNT, DEFAULT_REGION, runtime_root
from volcrypt.volume.launch import spawn_daemon

UNITS: Final = 16
WRITES: Final = 28
SIZE: Final = UNITS * UNIT_BYTES + CHUNK_BYTES
PLAIN_SIZE: Final = 2 * CHUNK_BYTES + UNIT_BYTES


def unit(number: int) -> bytes:
    return struct.pack("<Q", number) * (UNIT_BYTES // 8)


def place_of(number: int) -> int:
    return number * 7 % UNITS


def plain_content() -> bytes:
    return b"plain sector %08d, " % 1 * (CHUNK_BYTES // 24) + os.urandom(UNIT_BYTES)


class Work:
    """One thing after the other; `notes` are kept where no power is cut."""

    def __init__(self, home: Path, point: Path, notes: Path, log: Path | None = None) -> None:
        self._path, self._point, self._log = home, point, log
        self._notes = notes
        self._number = 0

    def run_online(self) -> None:
        account = {"account": DEFAULT_ACCOUNT, "region": DEFAULT_REGION}
        init_home(self._path, runtime_root(), **account, pin=None)
        self.note("home")
        with Home(self._path, runtime_root()) as home:
            self._import_plain(home, "online")
            self._mount(home, "online")
            try:
                for rekeys in (False, True):
                    self.note("migrating")
                    migrate(home, rekeys=rekeys)
                    self.note("migrated", key=data_key_of(home))
            finally:
                unmount_volume(home, "online")

    def note(self, what: str, **known: Any) -> None:
        entries = entries_in(self._log) if self._log else 0
        with self._notes.open("a") as file:
            file.write(json.dumps({"at": entries, "what": what, **known}) + "\n")

    def run(self) -> None:
        account = {"account": DEFAULT_ACCOUNT, "region": DEFAULT_REGION}
        init_home(self._path, runtime_root(), **account, pin=None)
        self.note("home")
        with Home(self._path, runtime_root()) as home:
            key = self._keys(home)
            self._volumes(home)
            self._mount(home, "data")
            try:
                self._write(8)
                create_snapshot(home, "data", name="first", store=None, progress=SILENT)
                self.note("snapshot", name="first", written=self._number)
                self._write(8)
                create_snapshot(home, "data", name="second", store=None, progress=SILENT)
                self.note("snapshot", name="second", written=self._number)
                self._write(12, syncs=4)
            finally:
                unmount_volume(home, "data")
            assert self._number == WRITES
            # Whoever unmounts has synced, whatever the writer did.
            self.note("written", number=self._number)
            copy_snapshot(
                home,
                "second",
                choice=KeyChoice(kms_key=key),
                name="copied",
                store=None,
                region=None,
                progress=SILENT,
            )
            self.note("snapshot", name="copied", written=16)
            delete_snapshot(home, "first")
            self.note("deleted", name="first")
            self._encrypt(home)
            call(home.kms, home.caller, "DisableKey", {"KeyId": key})
            self.note("disabled", key=key)

    def _keys(self, home: Home) -> str:
        made = call(home.kms, home.caller, "CreateKey", {"Description": "logged"})
        key = str(made["KeyMetadata"]["KeyId"])
        self.note("key", key=key)
        call(home.kms, home.caller, "CreateAlias", {"AliasName": "alias/l", "TargetKeyId": key})
        self.note("alias", alias="alias/l", key=key)
        secret = b64encode(b"kept").decode()
        blob = call(home.kms, home.caller, "Encrypt", {"KeyId": key, "Plaintext": secret})
        self.note("ciphertext", blob=blob["CiphertextBlob"], plaintext=secret)
        return key

    def _volumes(self, home: Home) -> None:
        create_volume(home, size_bytes=SIZE, name="data", choice=KeyChoice())
        self.note("volume", name="data")
        self._import_plain(home, "plain")

    def _mount(self, home: Home, name: str) -> None:
        mount_volume(
            home,
            name,
            self._point,
            read_only=False,
            launch=spawn_daemon,
            data_plane=data_plane(),
        )

    def _import_plain(self, home: Home, name: str) -> None:
        image = self._point.with_name("image")
        image.write_bytes(plain_content())
        os.truncate(image, PLAIN_SIZE)
        digest = hashlib.sha256(image.read_bytes()).hexdigest()
        choice = KeyChoice(encrypted=False)
        import_volume(home, image, name=name, choice=choice, progress=SILENT, expect_sha256=None)
        self.note("volume", name=name, digest=digest)

    def _write(self, count: int, *, syncs: int = 1) -> None:
        """Numbered units, of which every so many are synced."""
        descriptor = os.open(self._point / "volume", os.O_RDWR)
        try:
            for _ in range(count):
                self._number += 1
                at = place_of(self._number) * UNIT_BYTES
                os.pwrite(descriptor, unit(self._number), at)
                if self._number % syncs == 0:
                    os.fdatasync(descriptor)
                    self.note("written", number=self._number)
        finally:
            os.close(descriptor)

    def _encrypt(self, home: Home) -> None:
        encrypt_plain(home)
        self.note("encrypted", name="plain")


def encrypt_plain(home: Home) -> None:
    encrypt_volume(
        home,
        "plain",
        choice=KeyChoice(),
        keep_old=False,
        delete_plain_snapshots=False,
        progress=SILENT,
    )


def migrate(home: Home, *, rekeys: bool = False, only_resume: bool = False) -> None:
    migrate_volume(
        home,
        "online",
        choice=None if rekeys or only_resume else KeyChoice(),
        rekeys=rekeys,
        only_resume=only_resume,
        launch=spawn_daemon,
        watching=Watching(profile="default", region=None, interval_seconds=60.0),
        progress=SILENT,
    )


def data_key_of(home: Home) -> str | None:
    key = load_record(home, "online").wrapped_key
    return None if key is None else key.data_key_id


# ---------------------------------------------------------------- what is found


def check(path: Path, notes: list[dict[str, Any]], scratch: Path) -> int:
    """All that was noted is in the home at `path`, and the rest is whole or not there; how many
    notes had something to look at."""
    if not any(note["what"] == "home" for note in notes):
        with suppress(VolcryptError), Home(path, runtime_root()) as home:
            verify_audit(home)
        return 0
    known: dict[str, list[dict[str, Any]]] = {}
    for note in notes:
        known.setdefault(note["what"], []).append(note)
    with Home(path, runtime_root()) as home:
        verify_audit(home)
        _check_keys(home, known)
        _check_volumes(home, known, scratch)
        _check_snapshots(home, known, scratch)
        if "volume" in known:
            # Nothing that was left behind is in the way.
            name = known["volume"][0]["name"]
            create_snapshot(home, name, name="after", store=None, progress=SILENT)
            assert verify_snapshots(home, None, store=None, heads=[]).damages == []
        list_audit(home)
    return len(notes)


def _check_keys(home: Home, known: dict[str, list[dict[str, Any]]]) -> None:
    for note in known.get("key", []):
        answer = call(home.kms, home.caller, "DescribeKey", {"KeyId": note["key"]})
        assert answer["KeyMetadata"]["Description"] == "logged"
    for note in known.get("alias", []):
        answer = call(home.kms, home.caller, "DescribeKey", {"KeyId": note["alias"]})
        assert answer["KeyMetadata"]["KeyId"] == note["key"]
    for note in known.get("ciphertext", []):
        try:
            answer = call(home.kms, home.caller, "Decrypt", {"CiphertextBlob": note["blob"]})
        except KeyDisabledError:
            pass  # that may have come about before anybody was told
        else:
            assert answer["Plaintext"] == note["plaintext"]
            assert "disabled" not in known


def _check_volumes(home: Home, known: dict[str, list[dict[str, Any]]], scratch: Path) -> None:
    last = max((note["number"] for note in known.get("written", [])), default=0)
    for note in known.get("volume", []):
        if note["name"] == "online":
            _check_online(home, known, scratch, note["digest"])
            continue
        check_volume(home, note["name"])
        if note["name"] == "data":
            _check_units(_exported(home, "data", scratch), last)
            continue
        if load_workflows(home):
            # Until it is finished nobody may use the volume; a user asks for it again.
            encrypt_plain(home)
            assert load_record(home, "plain").is_encrypted
        found = _exported(home, "plain", scratch)
        assert hashlib.sha256(found).hexdigest() == note["digest"]
        assert load_record(home, "plain").is_encrypted or "encrypted" not in known


def _check_online(
    home: Home, known: dict[str, list[dict[str, Any]]], scratch: Path, digest: str
) -> None:
    """Nobody uses it any more; the same command goes on."""
    was_decided = data_key_of(home)
    if has_migration(home, "online"):
        migrate(home, only_resume=True)
    check_volume(home, "online")
    assert hashlib.sha256(_exported(home, "online", scratch)).hexdigest() == digest
    keys = [note["key"] for note in known.get("migrated", [])]
    assert data_key_of(home) is not None or not keys
    assert was_decided not in keys[:-1], "an older data key is back"
    directory = home.volumes.path_of(load_record(home, "online").volume_id)
    assert not {"data.next", "data.old"} & {path.name for path in directory.iterdir()}
    if keys:
        assert not any(b"plain sector" in path.read_bytes() for path in directory.iterdir())


def _check_snapshots(home: Home, known: dict[str, list[dict[str, Any]]], scratch: Path) -> None:
    assert verify_snapshots(home, None, store=None, heads=[]).damages == []
    there = {each.name for each in list_snapshots(home).manifests}
    gone = {note["name"] for note in known.get("deleted", [])}
    assert not gone & there
    for note in known.get("snapshot", []):
        if note["name"] in there:
            scratch.unlink(missing_ok=True)
            with suppress(KeyDisabledError):
                export_snapshot(home, note["name"], scratch, progress=SILENT)
                _check_units(scratch.read_bytes(), note["written"], exactly=True)
        else:
            assert note["name"] == "first", f"snapshot {note['name']} is lost"


def _exported(home: Home, volume: str, scratch: Path) -> bytes:
    scratch.unlink(missing_ok=True)
    export_volume(home, volume, scratch, progress=SILENT)
    return scratch.read_bytes()


def _check_units(found: bytes, last: int, *, exactly: bool = False) -> None:
    """What the writer acknowledged up to `last` is there; of each sector something newer may be,
    unless it is to be exactly that."""
    for place in range(UNITS):
        due = max((n for n in range(1, last + 1) if place_of(n) == place), default=0)
        allowed = {unit(due)[:SECTOR_BYTES]}
        if not exactly:
            later = range(last + 1, WRITES + 1)
            allowed |= {unit(n)[:SECTOR_BYTES] for n in later if place_of(n) == place}
        for begin in range(place * UNIT_BYTES, (place + 1) * UNIT_BYTES, SECTOR_BYTES):
            sector = found[begin : begin + SECTOR_BYTES]
            assert sector in allowed, f"{sector[:16]!r} at {begin}, where {due} was acknowledged"


def main() -> None:
    work = Work(*map(Path, sys.argv[1:5]))
    work.run_online() if sys.argv[5:] == ["online"] else work.run()


if __name__ == "__main__":
    main()
