"""Customer-provided keys: every command that makes, opens, copies or re-encrypts, with the right
key, a wrong one, none, too short and too long a one, and from standard input."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.command import Command, disposable_home
from volcrypt.crypto.customer_key import CustomerKey
from volcrypt.operations.home import Home
from volcrypt.operations.keys import unwrap_key
from volcrypt.operations.records import load_record
from volcrypt.settings import runtime_root

SIZE = 2 * 2**20 + 8192
BY_CUSTOMER = ["--customer-key-file"]
SOURCE_BY_CUSTOMER = ["--source-customer-key-file"]


@dataclass
class Scene:
    """A home with a volume and a snapshot under a customer-provided key, `own`, and the same under
    a KMS key, `kms`, and not encrypted, `plain`."""

    command: Command
    root: Path
    content: bytes
    kms_key: str

    def key(self, name: str) -> str:
        return str(self.root / name)

    def key_bytes(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def exported(self, volume: str, *options: str | Path) -> bytes:
        target = self.root / "exported"
        target.unlink(missing_ok=True)
        self.command.run("volume", "export", "--yes", volume, target, *options)
        return target.read_bytes()

    def show(self, kind: str, name: str) -> Any:
        return self.command.json(kind, "show", name)

    def everything(self) -> list[Any]:
        """What a command that failed must not have changed."""
        mounts = Path("/proc/self/mountinfo").read_text()
        volumes = self.command.json("volume", "list")["Volumes"]
        return [
            {volume["VolumeId"]: volume["Name"] for volume in volumes},
            self.command.json("snapshot", "list"),
            sorted(path.name for path in (self.command.home / "volumes").iterdir()),
            sorted(path.name for path in (self.command.home / "work").iterdir()),
            sorted(path.name for path in self.root.iterdir()),
            mounts.count(str(self.root)),
        ]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    root = tmp_path_factory.mktemp("customer")
    content = bytearray(os.urandom(SIZE))
    content[2**19 : 2**20] = bytes(2**19)
    (root / "image").write_bytes(content)
    (root / "mnt").mkdir()
    key = b"\x00\n\xff\x80" + os.urandom(28)  # no text, and nothing may be stripped from it
    (root / "right").write_bytes(key)
    (root / "wrong").write_bytes(bytes([key[0] ^ 1]) + key[1:])
    (root / "short").write_bytes(key[:31])
    (root / "long").write_bytes(key + b"\n")
    (root / "empty").write_bytes(b"")
    with disposable_home(root / "home") as command:
        command.run("init")
        kms_key = command.run("kms", "create-key")
        for name, options in (
            ("own", ["--customer-key-file", root / "right"]),
            ("kms", ["--kms-key-id", kms_key]),
            ("plain", ["--unencrypted"]),
        ):
            command.run("volume", "import", root / "image", "--name", name, *options)
            command.run("snapshot", "create", "--wait", name, "--name", f"{name}-1")
        yield Scene(command, root, bytes(content), kms_key)


OPENING = {
    "check": ["volume", "check", "own"],
    "export": ["volume", "export", "--yes", "own", "ROOT/out"],
    "mount": ["mount", "own", "ROOT/mnt"],
    "attach": ["attach", "own"],
    "volume from a snapshot": ["volume", "create", "--name", "new", "--snapshot-id", "own-1"],
    "copy under the default key": ["snapshot", "copy", "--wait", "own-1", "--name", "new"],
}
MAKING = {
    "create": ["volume", "create", "--name", "new", "--size", "1MiB"],
    "import": ["volume", "import", "ROOT/image", "--name", "new"],
    "copy": ["snapshot", "copy", "--wait", "plain-1", "--name", "new"],
    "volume from a snapshot": ["volume", "create", "--name", "new", "--snapshot-id", "kms-1"],
    "encrypt": ["encrypt", "plain"],
}


def words(scene: Scene, command: list[str]) -> list[str]:
    return [word.replace("ROOT", str(scene.root)) for word in command]


def option_of(command: list[str]) -> str:
    return SOURCE_BY_CUSTOMER[0] if "own-1" in command else BY_CUSTOMER[0]


def undo(scene: Scene, command: list[str]) -> None:
    match command[0], command[1]:
        case "volume", "export":
            (scene.root / "out").unlink()
        case "mount", _:
            scene.command.run("unmount", "own")
        case "attach", _:
            scene.command.run("detach", "own")
        case "snapshot", "copy":
            scene.command.run("snapshot", "delete", "new")
        case "volume", "create" | "import":
            scene.command.run("volume", "delete", "new")


@pytest.mark.parametrize("name", OPENING)
def test_what_opens_asks_for_the_right_key(scene: Scene, name: str) -> None:
    command, option = words(scene, OPENING[name]), option_of(OPENING[name])
    before = scene.everything()
    missing = scene.command.fails(2, *command)
    assert "under a customer-provided key, and none was given" in missing
    assert option in missing
    assert "another customer-provided key" in scene.command.fails(
        5, *command, option, scene.key("wrong")
    )
    for file, has in (("short", "has 31 bytes"), ("long", "has more"), ("empty", "has 0 bytes")):
        assert has in scene.command.fails(2, *command, option, scene.key(file))
    scene.command.fails(2, *command, option, scene.root)
    scene.command.fails(2, *command, option, scene.key("absent"))
    assert scene.everything() == before
    scene.command.run(*command, option, scene.key("right"))
    undo(scene, OPENING[name])
    scene.command.run(*command, option, "-", stdin=scene.key_bytes("right"))
    undo(scene, OPENING[name])
    scene.command.fails(2, *command, option, "-", stdin=scene.key_bytes("long"))
    scene.command.fails(5, *command, option, "-", stdin=scene.key_bytes("wrong"))
    assert scene.everything() == before


@pytest.mark.parametrize("name", OPENING)
def test_a_key_that_nothing_needs_is_refused(scene: Scene, name: str) -> None:
    for other in ("kms", "plain"):
        command = [word.replace("own", other) for word in words(scene, OPENING[name])]
        before = scene.everything()
        complaint = scene.command.fails(2, *command, option_of(OPENING[name]), scene.key("right"))
        assert "is not under a customer-provided key" in complaint
        assert scene.everything() == before


@pytest.mark.parametrize("name", MAKING)
def test_what_makes_takes_a_key_of_32_bytes(scene: Scene, name: str) -> None:
    command = words(scene, MAKING[name])
    before = scene.everything()
    for file in ("short", "long", "empty"):
        complaint = scene.command.fails(2, *command, *BY_CUSTOMER, scene.key(file))
        assert "exactly 32 bytes" in complaint
    scene.command.fails(2, *command, *BY_CUSTOMER, scene.key("right"), "--kms-key-id", "alias/x")
    if name != "encrypt":
        scene.command.fails(2, *command, *BY_CUSTOMER, scene.key("right"), "--unencrypted")
    assert scene.everything() == before


@pytest.mark.parametrize("given", ["file", "stdin"])
@pytest.mark.parametrize("name", [name for name in MAKING if name != "encrypt"])
def test_what_is_made_is_under_the_key(scene: Scene, name: str, given: str) -> None:
    command, right = words(scene, MAKING[name]), scene.key("right")
    if given == "file":
        scene.command.run(*command, *BY_CUSTOMER, right)
    else:
        scene.command.run(*command, *BY_CUSTOMER, "-", stdin=scene.key_bytes("right"))
    kind = command[0]
    shown = scene.show(kind, "new")
    assert shown["Encrypted"] is True
    assert (shown["KeySource"], shown["KmsKeyId"]) == ("customer", None)
    assert shown["DataEncryptionKeyId"] not in {
        scene.show("volume", volume)["DataEncryptionKeyId"] for volume in ("own", "kms")
    }
    if kind == "snapshot":
        scene.command.run(
            "volume", "create", "--snapshot-id", "new", "--name", "back",
            *SOURCE_BY_CUSTOMER, right,
        )  # fmt: skip
        assert scene.exported("back", *BY_CUSTOMER, right) == scene.content
        scene.command.run("volume", "delete", "back")
    elif name != "create":
        assert scene.exported("new", *BY_CUSTOMER, right) == scene.content
    scene.command.fails(5, "volume" if kind == "volume" else "snapshot",
        *(["check", "new"] if kind == "volume" else ["copy", "new"]),
        option_of(["own-1"] if kind == "snapshot" else []), scene.key("wrong"),
    )  # fmt: skip
    undo(scene, MAKING[name])


def test_encrypt_under_the_key(scene: Scene) -> None:
    right = scene.key("right")
    scene.command.run("volume", "import", scene.root / "image", "--name", "old", "--unencrypted")
    report = scene.command.json("encrypt", "old", *BY_CUSTOMER, right)
    assert (report["KmsKeyId"], report["KeySource"]) == (None, "customer")
    assert scene.show("volume", "old")["KeySource"] == "customer"
    assert scene.exported("old", *BY_CUSTOMER, right) == scene.content
    scene.command.run("volume", "delete", "old")


def test_only_one_thing_comes_from_standard_input(scene: Scene) -> None:
    for command in (
        ["volume", "create", "--snapshot-id", "own-1"],
        ["snapshot", "copy", "--wait", "own-1"],
    ):
        complaint = scene.command.fails(
            2, *command, *BY_CUSTOMER, "-", *SOURCE_BY_CUSTOMER, "-", stdin=b"k" * 32
        )
        assert "only one thing" in complaint
    scene.command.fails(
        2, "volume", "create", "--size", "1MiB", *SOURCE_BY_CUSTOMER, scene.key("right")
    )


def test_the_same_key_shares_the_data_key(scene: Scene) -> None:
    """As EBS does under the same KMS key; nothing is re-encrypted or stored again."""
    right = scene.key("right")
    data_key = scene.show("volume", "own")["DataEncryptionKeyId"]
    assert scene.show("snapshot", "own-1")["DataEncryptionKeyId"] == data_key
    assert scene.show("snapshot", "own-1")["KeySource"] == "customer"
    for options in ([*BY_CUSTOMER, right], [*SOURCE_BY_CUSTOMER, right]):
        scene.command.run("volume", "create", "--snapshot-id", "own-1", "--name", "new", *options)
        assert scene.show("volume", "new")["DataEncryptionKeyId"] == data_key
        assert scene.exported("new", *BY_CUSTOMER, right) == scene.content
        scene.command.run("volume", "delete", "new")
    scene.command.run("snapshot", "copy", "--wait", "own-1", "--name", "new", *BY_CUSTOMER, right)
    shown = scene.show("snapshot", "new")
    assert (shown["DataEncryptionKeyId"], shown["StoredBytes"]) == (data_key, 0)
    scene.command.run("snapshot", "delete", "new")
    # Without the right key nothing is shared, even though no plaintext is needed for it.
    for wrong in (
        ["volume", "create", "--snapshot-id", "own-1"],
        ["snapshot", "copy", "--wait", "own-1"],
    ):
        scene.command.fails(5, *wrong, *BY_CUSTOMER, scene.key("wrong"))


def test_from_the_customer_s_key_to_a_kms_key_and_back(scene: Scene) -> None:
    run, right = scene.command.run, scene.key("right")
    under_kms = ["--kms-key-id", scene.kms_key]
    (scene.root / "second").write_bytes(os.urandom(32))
    second = scene.key("second")
    run(
        "snapshot", "copy", "--wait", "own-1", "--name", "a", *SOURCE_BY_CUSTOMER, right, *under_kms
    )
    run("snapshot", "copy", "--wait", "a", "--name", "b", *BY_CUSTOMER, second)
    run(
        "snapshot",
        "copy",
        "--wait",
        "b",
        "--name",
        "c",
        *SOURCE_BY_CUSTOMER,
        second,
        *BY_CUSTOMER,
        right,
    )
    shown = [scene.show("snapshot", name) for name in ("own-1", "a", "b", "c")]
    assert [s["KeySource"] for s in shown] == ["customer", "kms", "customer", "customer"]
    assert len({s["DataEncryptionKeyId"] for s in shown}) == 4
    assert len({s["Root"] for s in shown}) == 4
    assert [s["KmsKeyId"] is not None for s in shown] == [False, True, False, False]
    run("volume", "create", "--snapshot-id", "a", "--name", "from-a")
    assert scene.exported("from-a") == scene.content
    run("volume", "create", "--snapshot-id", "c", "--name", "from-c", *SOURCE_BY_CUSTOMER, right)
    assert scene.exported("from-c", *BY_CUSTOMER, right) == scene.content
    # A volume under a KMS key, straight from a snapshot under the customer's, and the other way.
    for name, options in (
        ("x", ["own-1", *SOURCE_BY_CUSTOMER, right, *under_kms]),
        ("y", ["a", *BY_CUSTOMER, second]),
        ("z", ["b", *SOURCE_BY_CUSTOMER, second, *BY_CUSTOMER, right]),
    ):
        run("volume", "create", "--name", name, "--snapshot-id", *options)
    assert scene.exported("x") == scene.content
    assert scene.exported("y", *BY_CUSTOMER, second) == scene.content
    assert scene.exported("z", *BY_CUSTOMER, right) == scene.content
    for name in ("from-a", "from-c", "x", "y", "z"):
        run("volume", "delete", name)
    for name in ("a", "b", "c"):
        run("snapshot", "delete", name)
    run("snapshot", "verify")


def test_encrypted_never_becomes_unencrypted(scene: Scene) -> None:
    right = scene.key("right")
    for command in (
        ["volume", "create", "--snapshot-id", "own-1"],
        ["snapshot", "copy", "--wait", "own-1"],
    ):
        complaint = scene.command.fails(2, *command, "--unencrypted", *SOURCE_BY_CUSTOMER, right)
        assert "always encrypted" in complaint


def test_no_kms_key_is_needed(scene: Scene) -> None:
    """With every KMS key of the account disabled, and nothing asked of the KMS."""
    asked = len(scene.command.json("audit", "list")["Records"])
    scene.command.run("kms", "disable-key", "--key-id", scene.kms_key)
    scene.command.fails(5, "volume", "check", "kms")
    between = len(scene.command.json("audit", "list")["Records"])
    right = scene.key("right")
    scene.command.run("mount", "own", scene.root / "mnt", *BY_CUSTOMER, right)
    assert (scene.root / "mnt/volume").read_bytes() == scene.content
    scene.command.run("unmount", "own")
    scene.command.run("snapshot", "copy", "--wait", "own-1", "--name", "new", *BY_CUSTOMER, right)
    scene.command.run("snapshot", "delete", "new")
    assert len(scene.command.json("audit", "list")["Records"]) == between > asked
    scene.command.run("kms", "enable-key", "--key-id", scene.kms_key)


def test_the_key_is_nowhere(scene: Scene) -> None:
    """Not in a file, an argument, an environment or the memory of what serves; the data key is
    found where it has to be, in that memory, and nowhere else."""
    right = scene.key("right")
    customer_key = scene.key_bytes("right")
    with Home(scene.command.home, runtime_root()) as home:
        home.customer_keys.append(CustomerKey(bytearray(customer_key)))
        wrapped = load_record(home, "own").wrapped_key
        assert wrapped is not None
        with unwrap_key(home, wrapped) as opened:
            data_key = bytes(opened.view())
    mounted = scene.command.json("mount", "own", scene.root / "mnt", *BY_CUSTOMER, right)
    try:
        pid = mounted["Pid"]
        places = [scene.command.home, scene.command.runtime]
        for secret in (customer_key, data_key):
            planted = scene.command.runtime / "planted"
            planted.write_text(f"log: {secret.hex()}")
            assert found_in_files(secret, places) == [planted]
            planted.unlink()
            assert found_in_files(secret, places) == []
            for name in ("cmdline", "environ"):
                text = Path(f"/proc/{pid}/{name}").read_bytes()
                assert text
                assert not any(form in text for form in forms(secret))
        assert count_in_memory(pid, data_key[:32]) > 0
        assert count_in_memory(pid, customer_key) == 0
    finally:
        scene.command.run("unmount", "own")
    audit = "".join(path.read_text() for path in scene.command.home.glob("kms/audit/*.jsonl"))
    assert "Decrypt" in audit
    assert not any(form.decode("latin-1") in audit for form in forms(customer_key))


def forms(secret: bytes) -> list[bytes]:
    """As it is, and as somebody would print it."""
    from base64 import b64encode

    return [secret, secret.hex().encode(), b64encode(secret)[:-4], repr(secret)[2:-1].encode()]


def found_in_files(secret: bytes, places: list[Path]) -> list[Path]:
    return [
        path
        for place in places
        for path in place.rglob("*")
        if path.is_file() and any(form in path.read_bytes() for form in forms(secret))
    ]


def count_in_memory(pid: int, secret: bytes) -> int:
    found = 0
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            start, end = (int(word, 16) for word in line.split(" ")[0].split("-"))
            if not line.split(" ")[1].startswith("r") or "[v" in line:
                continue
            try:
                memory.seek(start)
                found += memory.read(end - start).count(secret)
            except OSError:
                continue
    return found
