"""Import of LUKS2 images that the real cryptsetup made, and of what we exported ourselves; what
cannot be imported is named."""

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command import Command, disposable_home
from tests.cryptsetup import (
    CHEAP_PBKDF,
    HEADER_BYTES,
    LUKS2,
    OFFLINE,
    PASSPHRASE,
    encrypt,
    make_sparse,
    run_cryptsetup,
)
from volcrypt.crypto.xts import XtsKernel
from volcrypt.volume.cryptsetup import open_volume_key

SIZE = 2 * 2**20 + 4096
PLAINTEXT = random.Random(3).randbytes(SIZE)


@dataclass
class Scene:
    """A home, and images of cryptsetup's making."""

    command: Command
    root: Path

    @property
    def inline(self) -> Path:
        """Header and data in one file."""
        return self.root / "inline" / "data"

    @property
    def detached(self) -> tuple[Path, Path]:
        """Data and header."""
        return self.root / "detached" / "data", self.root / "detached" / "header"

    def word(self, content: bytes = PASSPHRASE) -> list[str]:
        (self.root / "word").write_bytes(content)
        return ["--luks-passphrase-file", str(self.root / "word")]

    def imported(self, *arguments: str | Path, size: int = SIZE) -> bytes:
        """What a new volume holds that an import makes; it is gone again afterwards."""
        self.command.run("volume", "import", *arguments, "--name", "new")
        shown = self.command.json("volume", "show", "new")
        assert shown["Encrypted"] is True
        assert shown["Size"] == size
        target = self.root / "out"
        target.unlink(missing_ok=True)
        self.command.run("volume", "export", "--yes", "new", target)
        self.command.run("volume", "delete", "new")
        return target.read_bytes()

    def refused(self, code: int, *arguments: str | Path) -> str:
        complaint = self.command.fails(code, "volume", "import", *arguments, "--name", "new")
        assert self.command.json("volume", "list")["Volumes"] == []
        assert list((self.command.home / "volumes").iterdir()) == []
        return complaint


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    root = tmp_path_factory.mktemp("luks")
    for name in ("inline", "detached"):
        (root / name).mkdir()
        (root / name / "data").write_bytes(PLAINTEXT)
    encrypt(root / "detached")
    # The data moves behind the header, which takes as much again for its way.
    os.truncate(root / "inline" / "data", SIZE + 2 * HEADER_BYTES)
    run_cryptsetup(
        root / "inline",
        *("reencrypt", "--encrypt", *OFFLINE, *LUKS2, *CHEAP_PBKDF),
        *("--reduce-device-size=32M", "data"),
        header=None,
    )
    os.truncate(root / "inline" / "data", SIZE + HEADER_BYTES)
    with disposable_home(root / "home") as command:
        command.run("init")
        yield Scene(command, root)


def test_with_the_header_in_the_image(scene: Scene) -> None:
    before = scene.inline.read_bytes()
    assert PLAINTEXT[:4096] not in before
    assert scene.imported(scene.inline, *scene.word()) == PLAINTEXT
    assert scene.inline.read_bytes() == before


def test_with_a_detached_header(scene: Scene) -> None:
    data, header = scene.detached
    before = data.read_bytes(), header.read_bytes()
    assert scene.imported(data, *scene.word(), "--luks-header", header) == PLAINTEXT
    assert (data.read_bytes(), header.read_bytes()) == before
    # The header of one does not open the data of the other: a control.
    other = scene.root / "other"
    other.write_bytes(scene.inline.read_bytes()[HEADER_BYTES:])
    assert scene.imported(other, *scene.word(), "--luks-header", header) != PLAINTEXT


def test_under_a_key_of_its_own(scene: Scene) -> None:
    """The volume key of the image opens nothing of the volume, whatever wraps the new one."""
    with open_volume_key(
        scene.detached[1].read_bytes(), bytearray(PASSPHRASE), what="header"
    ) as key:
        kernel, unit = XtsKernel(key.view()), bytearray(4096)
        kernel.decrypt_units(0, scene.detached[0].read_bytes()[:4096], unit)
        assert unit == PLAINTEXT[:4096]
        (scene.root / "own").write_bytes(os.urandom(32))
        for options in ([], ["--customer-key-file", str(scene.root / "own")]):
            word = scene.word()
            scene.command.run("volume", "import", scene.inline, *word, "--name", "new", *options)
            shown = scene.command.json("volume", "show", "new")
            kernel.decrypt_units(0, Path(shown["DataPath"]).read_bytes()[:4096], unit)
            assert unit != PLAINTEXT[:4096]
            assert shown["KeySource"] == ("customer" if options else "kms")
            scene.command.run("volume", "check", "new", *options)
            scene.command.run("volume", "delete", "new")


def test_the_passphrase(scene: Scene) -> None:
    assert scene.imported(scene.inline, *scene.word(PASSPHRASE + b"\n")) == PLAINTEXT
    scene.command.run(
        *("volume", "import", scene.inline, "--name", "new", "--luks-passphrase-file", "-"),
        stdin=PASSPHRASE,
    )
    scene.command.run("volume", "delete", "new")
    for wrong in (b"wrong", PASSPHRASE + b"x", PASSPHRASE[:-1], b" " + PASSPHRASE):
        complaint = scene.refused(5, scene.inline, *scene.word(wrong))
        assert "the passphrase does not open" in complaint
    scene.refused(2, scene.inline, *scene.word(b""))
    both = ["--luks-passphrase-file", "-", "--customer-key-file", "-"]
    assert "only one thing" in scene.refused(2, scene.inline, *both)
    scene.refused(2, scene.inline, "--luks-header", scene.detached[1])


def test_a_key_file_that_ends_in_a_newline(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "passphrase").write_bytes(b"\x00\xffkey\n")
    (tmp_path / "data").write_bytes(PLAINTEXT)
    encrypt(tmp_path)
    header = ["--luks-header", str(tmp_path / "header")]
    word = scene.word(b"\x00\xffkey\n")
    assert scene.imported(tmp_path / "data", *word, *header) == PLAINTEXT
    scene.refused(5, tmp_path / "data", *scene.word(b"\x00\xffkey"), *header)


def test_without_its_passphrase_an_image_is_bytes(scene: Scene) -> None:
    """Somebody may want to keep the image as it is."""
    size = SIZE + HEADER_BYTES
    assert scene.imported(scene.inline, size=size) == scene.inline.read_bytes()
    done = scene.command.try_run("volume", "import", scene.inline, "--name", "as-it-is")
    assert "is a LUKS container" in done.stderr
    scene.command.run("volume", "delete", "as-it-is")


def test_what_was_never_written_reads_zeros(scene: Scene, tmp_path: Path) -> None:
    stored = bytearray(scene.detached[0].read_bytes())
    stored[8192 : 2**20] = bytes(2**20 - 8192)
    (tmp_path / "data").write_bytes(stored)
    found = scene.imported(tmp_path / "data", *scene.word(), "--luks-header", scene.detached[1])
    assert found == PLAINTEXT[:8192] + bytes(2**20 - 8192) + PLAINTEXT[2**20 :]


@pytest.mark.usefixtures("cheap_keyslots")
def test_an_exported_header_comes_back(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(PLAINTEXT)
    (tmp_path / "secret").write_bytes(b"correct horse\n")
    scene.command.run("volume", "import", tmp_path / "image", "--name", "there")
    word = ["--passphrase-file", str(tmp_path / "secret")]
    made = scene.command.json("volume", "export-header", "there", tmp_path / "header", *word)
    scene.command.run(
        *("volume", "import", made["DataPath"], "--luks-header", tmp_path / "header"),
        *("--luks-passphrase-file", tmp_path / "secret", "--name", "back"),
    )
    scene.command.run("volume", "export", "--yes", "back", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == PLAINTEXT
    assert scene.command.json("volume", "show", "back")["HeaderExportTime"] is None
    for name in ("there", "back"):
        scene.command.run("volume", "delete", name)


def formatted(directory: Path, *options: str) -> Path:
    make_sparse(directory / "data", 20 * 2**20)
    run_cryptsetup(directory, "luksFormat", *options, "data", header=None)
    return directory / "data"


@pytest.mark.parametrize(
    ("reason", "options"),
    [
        ("is of LUKS version 1", ["--type=luks1", "--pbkdf-force-iterations=1000"]),
        ("its sectors have 512 bytes", ["--type=luks2", "--sector-size=512", *CHEAP_PBKDF]),
        (
            "its cipher is 'aes-cbc-essiv:sha256'",
            ["--type=luks2", "--sector-size=4096", "--cipher=aes-cbc-essiv:sha256", *CHEAP_PBKDF],
        ),
        (
            "its key has 256 bits",
            ["--type=luks2", "--sector-size=4096", "--key-size=256", *CHEAP_PBKDF],
        ),
    ],
)
def test_what_cannot_be_imported(
    scene: Scene, tmp_path: Path, reason: str, options: list[str]
) -> None:
    image = formatted(tmp_path, *options)
    complaint = scene.refused(2, image, *scene.word())
    assert reason in complaint
    assert "hint: " in complaint


def test_a_reencryption_in_progress(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(PLAINTEXT)
    encrypt(tmp_path, "--init-only")
    header = ["--luks-header", str(tmp_path / "header")]
    complaint = scene.refused(2, tmp_path / "data", *scene.word(), *header)
    assert "a reencryption of it is unfinished" in complaint
    assert "cryptsetup reencrypt" in complaint


def test_images_that_were_cut(scene: Scene, tmp_path: Path) -> None:
    whole = scene.inline.read_bytes()
    for length, code, reason in (
        (0, 2, "is empty"),
        (5, 2, "has no LUKS header"),
        (4096, 6, "its header is cut short"),
        (16384, 6, "its area of keyslots is cut short"),
        (HEADER_BYTES - 1, 6, "its area of keyslots is cut short"),
        (HEADER_BYTES, 6, "before its data does"),
        (len(whole) - 1, 6, "no multiple of 4096: it was cut short"),
        (HEADER_BYTES + 512, 6, "no multiple of 4096: it was cut short"),
    ):
        (tmp_path / "cut").write_bytes(whole[:length])
        assert reason in scene.refused(code, tmp_path / "cut", *scene.word())
    # Of the header alone: with a first copy that is damaged cryptsetup goes on with the second.
    damaged = bytearray(whole)
    damaged[5000] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    complaint = scene.refused(6, tmp_path / "damaged", *scene.word())
    assert "the checksum of its header does not hold" in complaint
    # A keyslot that is damaged is a wrong passphrase, for all that anybody can tell.
    damaged = bytearray(whole)
    for offset in range(32768, 32768 + 258048, 512):
        damaged[offset] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    scene.refused(5, tmp_path / "damaged", *scene.word())


def test_what_is_no_luks_image(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(PLAINTEXT)
    assert "has no LUKS header" in scene.refused(2, tmp_path / "image", *scene.word())
    data = scene.detached[0]
    assert "has no LUKS header" in scene.refused(2, data, *scene.word())
