"""A whole home as a release wrote it: made once for each release, kept for ever, opened by tests.

    python -m tests.golden_home VERSION         makes tests/golden/release-VERSION/

    home.tar.xz    home/        the home, with its token and the PIN of that
                   shared/      a snapshot store in a directory, as it would lie in a bucket
                   backup       of the home, under a passphrase
                   carried      the data of a volume that the home gave away, and beside it
                                carried.volcrypt, the copy of its record
    facts.json     `Facts`: what was put in, and what it takes to have it out again

All of it is test data. PIN, passphrase, keys and access keys in it are public and protect nothing.

Nothing in there is bound to a path or a machine but the place of the store `shared`, which tests
change to where they unpacked it.
"""

import base64
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.command import Command, disposable_home
from tests.damage_scene import StoppedError, StopWhen
from tests.forked import FORKER
from tests.golden import GOLDEN
from tests.kms.importing import wrap
from tests.softhsm import CLUSTER_PIN, make_cluster
from volcrypt import __version__
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES
from volcrypt.operations import import_run
from volcrypt.operations.encrypt import encrypt_volume
from volcrypt.operations.home import Home
from volcrypt.operations.images import import_volume
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.progress import Progress
from volcrypt.settings import runtime_root

PASSPHRASE: Final = "public: it protects test data"
CUSTOMER_KEY: Final = bytes(range(32))
IMPORTED_MATERIAL: Final = bytes(range(32, 64))
PLAINTEXT: Final = b"a text of release "
CONTEXT: Final = {"purpose": "golden", "owner": "tests"}
SIZE: Final = 4 * CHUNK_BYTES
TAIL_SIZE: Final = CHUNK_BYTES + 4 * UNIT_BYTES
"""Of volumes that are encrypted anew, in whole chunks, which no archive makes smaller: all that is
in them lies in a last chunk of 16 KiB."""
_WRAPPING: Final = "RSA_AES_KEY_WRAP_SHA_256"
_DEADLINE_SECONDS: Final = 60


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What a volume or snapshot reads as: zeros, but for whole units at `units`, by offset, each
    filled with repetitions of a word."""

    size_bytes: int
    units: dict[str, str]

    def bytes(self) -> bytes:
        data = bytearray(self.size_bytes)
        for offset, word in self.units.items():
            data[int(offset) : int(offset) + UNIT_BYTES] = unit_of(word)
        return bytes(data)

    def with_unit(self, offset: int, word: str) -> "Content":
        return Content(size_bytes=self.size_bytes, units=self.units | {str(offset): word})


class Blob(msgspec.Struct, frozen=True, kw_only=True):
    """A ciphertext of the KMS, how it was made, and what is in it."""

    what: str
    ciphertext: bytes
    plaintext: bytes
    context: dict[str, str]
    key_id: str


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was put into the home. `volumes` and `snapshots` by name."""

    release: str
    warning: str = "test data: PIN, passphrase and keys are public and protect nothing"
    passphrase: str
    customer_key: bytes
    volumes: dict[str, Content]
    snapshots: dict[str, Content]
    image: Content
    blobs: list[Blob]
    keys: dict[str, str]
    states: dict[str, str]
    audit_head: str
    audit_records: int
    store_public_keys: dict[str, str]
    log_heads: list[str]
    access_key: dict[str, str]


def unit_of(word: str) -> bytes:
    return (word.encode() * UNIT_BYTES)[:UNIT_BYTES]


def releases() -> list[str]:
    return sorted(path.name.removeprefix("release-") for path in GOLDEN.glob("release-*"))


def facts_of(release: str) -> Facts:
    data = (GOLDEN / f"release-{release}" / "facts.json").read_bytes()
    return msgspec.json.decode(data, type=Facts)


def unpack(release: str, directory: Path) -> None:
    """`home`, `shared`, ... in `directory`, times, modes and holes as they were."""
    archive = GOLDEN / f"release-{release}" / "home.tar.xz"
    subprocess.run(["tar", "--no-same-owner", "-xJpf", archive, "-C", directory], check=True)


class Maker:
    """Makes it all in `directory`, which goes into the archive."""

    def __init__(self, directory: Path, command: Command, scratch: Path) -> None:
        self._directory = directory
        self._command = command
        self._scratch = scratch
        self._volumes: dict[str, Content] = {}
        self._snapshots: dict[str, Content] = {}
        self._blobs: list[Blob] = []
        self._keys: dict[str, str] = {}
        self._access_key: dict[str, str] = {}
        self._image = Content(size_bytes=SIZE, units={"0": "image ", "1572864": "of an import "})
        (scratch / "customer-key").write_bytes(CUSTOMER_KEY)
        (scratch / "passphrase").write_text(PASSPHRASE)

    def make(self) -> Facts:
        run = self._command.run
        run("init")
        self._make_keys()
        self._make_principals()
        run("store", "create", "shared", "--url", (self._directory / "shared").as_uri())
        self._make_volumes()
        backup = ("backup", self._directory / "backup")
        run(*backup, "--passphrase-file", self._scratch / "passphrase")
        self._make_snapshots()
        self._give_away()
        self._interrupt()
        run("settings", "set", "default-kms-key", self._keys["created"])
        return self._facts()

    # ------------------------------------------------------------------------------------- keys

    def _kms(self, operation: str, *options: str | Path) -> Any:
        return self._command.json("kms", operation, *options)

    def _make_keys(self) -> None:
        for name in ("created", "rotated", "disabled", "pending"):
            made = self._kms("create-key", "--description", f"the key {name}")
            self._keys[name] = made["KeyMetadata"]["KeyId"]
        rotated = self._keys["rotated"]
        self._kms("create-alias", "--alias-name", "alias/app", "--target-key-id", rotated)
        self._encrypt("under the first material", "alias/app")
        self._kms("rotate-key-on-demand", "--key-id", rotated)
        self._wait_for(
            lambda: len(self._kms("list-key-rotations", "--key-id", rotated)["Rotations"]) == 1
        )
        self._kms("enable-key-rotation", "--key-id", rotated)
        self._encrypt("under the second material", rotated)
        self._generate_data_key("a data key", rotated)
        self._tag_and_grant(rotated)
        self._import()
        self._encrypt("under imported material", self._keys["imported"])
        self._encrypt("under what is disabled later", self._keys["disabled"])
        self._re_encrypt("moved to another key", self._blobs[0], self._keys["created"])
        self._kms("disable-key", "--key-id", self._keys["disabled"])
        pending = ("--key-id", self._keys["pending"], "--pending-window-in-days", "30", "--yes")
        self._kms("schedule-key-deletion", *pending)
        self._make_key_store()

    def _import(self) -> None:
        """Material of ours; some that is deleted again, for which the token gets a new wrapping
        key; and one whose import is under way."""
        self._import_material("imported", IMPORTED_MATERIAL)
        emptied = self._import_material("emptied", bytes(reversed(IMPORTED_MATERIAL)))
        self._kms("delete-imported-key-material", "--key-id", emptied, "--yes")
        self._parameters_of("waiting")

    def _parameters_of(self, name: str) -> tuple[str, Any]:
        made = self._kms("create-key", "--origin", "EXTERNAL", "--description", f"the key {name}")
        key = self._keys[name] = made["KeyMetadata"]["KeyId"]
        options = ("--wrapping-algorithm", _WRAPPING, "--wrapping-key-spec", "RSA_2048")
        return key, self._kms("get-parameters-for-import", "--key-id", key, *options)

    def _import_material(self, name: str, material: bytes) -> str:
        key, given = self._parameters_of(name)
        token, wrapped = self._scratch / "token", self._scratch / "wrapped"
        token.write_bytes(base64.b64decode(given["ImportToken"]))
        wrapped.write_bytes(wrap(material, base64.b64decode(given["PublicKey"]), _WRAPPING))
        self._kms(
            *("import-key-material", "--key-id", key, "--import-token", f"fileb://{token}"),
            *("--encrypted-key-material", f"fileb://{wrapped}"),
            *("--expiration-model", "KEY_MATERIAL_DOES_NOT_EXPIRE"),
        )
        return key

    def _tag_and_grant(self, key: str) -> None:
        self._kms("tag-resource", "--key-id", key, "--tags", "TagKey=team,TagValue=storage")
        self._kms(
            *("create-grant", "--key-id", key, "--name", "for-tests", "--operations", "Decrypt"),
            *("--grantee-principal", "arn:aws:iam::000000000000:root"),
            *("--constraints", "EncryptionContextSubset={purpose=golden}"),
        )

    def _make_key_store(self) -> None:
        """A custom key store, whose token is not kept: it is known, and disconnected."""
        cluster = make_cluster(self._scratch / "cluster", trust_anchor_certificate="anchor")
        config = self._command.home / "config.toml"
        config.write_text(
            f"[kms.clusters.cluster-2a23b4cdefg]\nmodule = '{cluster.module}'\n"
            f"token_label = '{cluster.token_label}'\n"
            f"softhsm_configuration = '{cluster.softhsm_configuration}'\n"
            f"trust_anchor = '{self._scratch / 'anchor'}'\n"
        )
        (self._scratch / "anchor").write_text("anchor")
        (self._scratch / "pin").write_text(CLUSTER_PIN)
        self._kms(
            *("create-custom-key-store", "--custom-key-store-name", "second"),
            *("--cloud-hsm-cluster-id", "cluster-2a23b4cdefg"),
            *("--key-store-password", f"file://{self._scratch / 'pin'}"),
            *("--trust-anchor-certificate", f"file://{self._scratch / 'anchor'}"),
        )
        config.unlink()

    def _encrypt(self, what: str, key: str) -> None:
        plaintext = PLAINTEXT + __version__.encode()
        (self._scratch / "text").write_bytes(plaintext)
        made = self._kms(
            *("encrypt", "--key-id", key, "--plaintext", f"fileb://{self._scratch / 'text'}"),
            *("--encryption-context", json.dumps(CONTEXT)),
        )
        self._keep(what, made, plaintext)

    def _generate_data_key(self, what: str, key: str) -> None:
        options = ("--key-spec", "AES_256", "--encryption-context", json.dumps(CONTEXT))
        made = self._kms("generate-data-key", "--key-id", key, *options)
        self._keep(what, made, base64.b64decode(made["Plaintext"]))

    def _re_encrypt(self, what: str, blob: Blob, key: str) -> None:
        (self._scratch / "blob").write_bytes(blob.ciphertext)
        made = self._kms(
            *("re-encrypt", "--ciphertext-blob", f"fileb://{self._scratch / 'blob'}"),
            *("--source-encryption-context", json.dumps(CONTEXT), "--destination-key-id", key),
            *("--destination-encryption-context", json.dumps(CONTEXT)),
        )
        self._keep(what, made, blob.plaintext)

    def _keep(self, what: str, made: Any, plaintext: bytes) -> None:
        self._blobs.append(
            Blob(
                what=what,
                ciphertext=base64.b64decode(made["CiphertextBlob"]),
                plaintext=plaintext,
                context=CONTEXT,
                key_id=made["KeyId"],
            )
        )

    def _make_principals(self) -> None:
        run = self._command.run
        run("principal", "create", "alice")
        statement = {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        run("principal", "put-policy", "alice", "-", stdin=json.dumps(policy).encode())
        made = self._command.json("principal", "create-access-key", "alice")["AccessKey"]
        self._access_key = {name: made[name] for name in ("AccessKeyId", "SecretAccessKey")}

    # ---------------------------------------------------------------------- volumes and snapshots

    def _put_in(self, name: str, content: Content, *options: str | Path) -> None:
        image = self._scratch / "image"
        image.write_bytes(content.bytes())
        self._command.run("volume", "import", image, "--name", name, *options)
        image.unlink()
        self._volumes[name] = content

    def _write(self, name: str, offset: int, word: str) -> None:
        """Through a mount that ends in order."""
        point = self._scratch / "point"
        point.mkdir(exist_ok=True)
        self._command.run("mount", name, point)
        with open(point / "volume", "r+b", buffering=0) as file:
            file.seek(offset)
            file.write(unit_of(word))
        self._command.run("unmount", name)
        self._volumes[name] = self._volumes[name].with_unit(offset, word)

    def _make_volumes(self) -> None:
        small = Content(size_bytes=4 * UNIT_BYTES, units={"4096": "a small one "})
        tail = Content(size_bytes=TAIL_SIZE, units={str(CHUNK_BYTES): "at the end "})
        self._command.run("volume", "create", "--size", f"{SIZE}B", "--name", "secret")
        self._volumes["secret"] = Content(size_bytes=SIZE, units={})
        self._write("secret", 0, "at the start ")
        self._write("secret", 2 * CHUNK_BYTES, "in the third chunk ")
        self._put_in("app", small, "--kms-key-id", self._keys["rotated"])
        self._put_in("tail", tail)
        self._put_in("plain", tail, "--unencrypted")
        self._put_in("moving", tail, "--unencrypted")
        self._put_in("customer", small, "--customer-key-file", self._scratch / "customer-key")

    def _snapshot(self, volume: str, name: str) -> None:
        self._command.run("snapshot", "create", "--wait", volume, "--name", name)
        self._snapshots[name] = self._volumes[volume]

    def _copy(self, snapshot: str, name: str, *options: str) -> None:
        to = ("--store", "shared", "--name", name, "--wait")
        self._command.run("snapshot", "copy", snapshot, *to, *options)
        self._snapshots[name] = self._snapshots[snapshot]

    def _make_snapshots(self) -> None:
        self._snapshot("secret", "first")
        self._write("secret", 3 * CHUNK_BYTES, "written after the first snapshot ")
        self._snapshot("secret", "second")
        self._snapshot("app", "gone")
        self._command.run("snapshot", "delete", "gone")
        del self._snapshots["gone"]
        self._snapshot("tail", "tail-first")
        self._snapshot("plain", "in-the-clear")
        self._copy("second", "moved")
        self._copy("tail-first", "copied", "--kms-key-id", self._keys["created"])
        # Written to and not stored since: an increment is due.
        self._write("secret", CHUNK_BYTES, "written after the second snapshot ")
        lazy = ("--snapshot-id", "copied", "--kms-key-id", self._keys["created"])
        self._command.run("volume", "create", *lazy, "--name", "lazy", "--fill-rate", "0")
        self._volumes["lazy"] = self._snapshots["copied"]
        self._write("lazy", 5 * UNIT_BYTES, "written to a lazy volume ")

    def _give_away(self) -> None:
        data = ("--data", self._directory / "carried", "--size", f"{SIZE}B", "--lease", "shared")
        self._command.run("volume", "create", "--name", "carried", *data)
        self._volumes["carried"] = Content(size_bytes=SIZE, units={})
        self._write("carried", 2 * CHUNK_BYTES, "given away ")
        self._command.run("volume", "delete", "carried", "--keep-data", "--yes")

    def _interrupt(self) -> None:
        """An import, an encryption, and one of a volume in use, each left behind a chunk or two."""
        image = self._scratch / "image"
        image.write_bytes(self._image.bytes())

        def importing(home: Home, progress: Progress) -> None:
            choice = KeyChoice()
            import_volume(
                home, image, name="imported", choice=choice, progress=progress, expect_sha256=None
            )

        def encrypting(home: Home, progress: Progress) -> None:
            encrypt_volume(
                home,
                "plain",
                choice=KeyChoice(),
                keep_old=False,
                delete_plain_snapshots=False,
                progress=progress,
            )

        works: Sequence[tuple[str, int, Callable[[Home, Progress], None]]]
        works = (("importing", CHUNK_BYTES + 1, importing), ("copying", 1, encrypting))
        kept = import_run.CURSOR_BYTES, import_run.CURSOR_PARTS
        import_run.CURSOR_BYTES, import_run.CURSOR_PARTS = 1, 8  # type: ignore[misc]
        try:
            with Home(self._command.home, runtime_root()) as home:
                for step, done_bytes, work in works:
                    with suppress(StoppedError):
                        work(home, StopWhen(step, done_bytes))
        finally:
            import_run.CURSOR_BYTES, import_run.CURSOR_PARTS = kept  # type: ignore[misc]
        self._pause_migration()

    def _pause_migration(self) -> None:
        volume_id = self._command.json("volume", "show", "moving")["VolumeId"]
        begun = self._command.start("encrypt", "moving", "--online", "--rate", "256KiB")
        self._wait_for((self._command.home / "work" / f"{volume_id}.migration").exists)
        self._wait_for(
            lambda: self._command.try_run("encrypt", "moving", "--pause").returncode == 0
        )
        code = begun.wait_for(_DEADLINE_SECONDS)
        assert code == 7, f"it ended with {code}"

    @staticmethod
    def _wait_for(is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while not is_so():
            assert time.monotonic() < deadline, "it never came"
            time.sleep(0.05)

    # ------------------------------------------------------------------------------------- facts

    def _facts(self) -> Facts:
        heads, public = [], {}
        for store in ("local", "shared"):
            public[store] = self._command.run("store", "public-key", store)
            verified = self._command.json("snapshot", "verify", "--store", store)
            heads += [str(each) for each in verified["Heads"]]
        states = {
            name: self._kms("describe-key", "--key-id", key)["KeyMetadata"]["KeyState"]
            for name, key in self._keys.items()
        }
        audit = self._command.json("audit", "verify")
        return Facts(
            release=__version__,
            passphrase=PASSPHRASE,
            customer_key=CUSTOMER_KEY,
            volumes=self._volumes,
            snapshots=self._snapshots,
            image=self._image,
            blobs=self._blobs,
            keys=self._keys,
            states=states,
            audit_head=audit["Head"],
            audit_records=audit["Records"],
            store_public_keys=public,
            log_heads=heads,
            access_key=self._access_key,
        )


# A host of its own: what it is called is in leases, and nobody's business.
_AS_ANOTHER_HOST: Final = """
set -e
mount -t tmpfs golden /mnt && echo 00000000000000000000000000000001 > /mnt/id
mount --bind /mnt/id /etc/machine-id && hostname golden
mkdir -p /dev/volcrypt && mount -t tmpfs volcrypt /dev/volcrypt
exec "$@"
"""


def main() -> None:
    (version,) = sys.argv[1:]
    assert __version__ == version, f"this is release {__version__}"
    target = GOLDEN / f"release-{version}"
    assert not target.exists(), f"{target} is kept for ever"
    if socket.gethostname() != "golden":
        again = (sys.executable, "-m", "tests.golden_home", version)
        own = ("unshare", "--mount", "--uts", "sh", "-c", _AS_ANOTHER_HOST, "sh")
        sys.exit(subprocess.run([*own, *again], check=False).returncode)
    with tempfile.TemporaryDirectory(prefix="volcrypt-golden-") as text:
        directory, scratch = Path(text, "kept"), Path(text, "scratch")
        directory.mkdir()
        scratch.mkdir()
        try:
            with disposable_home(directory / "home") as command:
                facts = Maker(directory, command, scratch).make()
        finally:
            FORKER.close()
        target.mkdir()
        # POSIX's extended form has times to the nanosecond, by which a change map is believed.
        archive = ("tar", "--format=posix", "--sparse", "--sort=name", "--owner=0", "--group=0")
        subprocess.run([*archive, "-cJf", target / "home.tar.xz", "-C", directory, "."], check=True)
        pretty = msgspec.json.format(msgspec.json.encode(facts), indent=1)
        (target / "facts.json").write_bytes(pretty + b"\n")
    print(f"{target}: {(target / 'home.tar.xz').stat().st_size} bytes")


if __name__ == "__main__":
    main()
