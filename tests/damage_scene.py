"""A home with everything that a home and its stores can hold, at two moments, to be damaged.

Volumes of each kind, mounted and killed among them; snapshots, a deleted one, a copy in a shared
store; an import, an encryption, a copy and a snapshot that were interrupted. It comes back as it
was, at the same paths, after each test.
"""

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.command import Command
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.operations import import_run
from volcrypt.operations.encrypt import encrypt_volume
from volcrypt.operations.home import Home
from volcrypt.operations.images import import_volume
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.progress import Progress
from volcrypt.operations.snapshot_lookup import load_snapshot
from volcrypt.operations.stores import store_of
from volcrypt.settings import runtime_root
from volcrypt.snapshot import layout
from volcrypt.snapshot.transfer import chunk_table

MIB = 2**20
SIZE = 2 * MIB


class StoppedError(Exception):
    pass


class StopWhen:
    """A progress that ends the work when a step has done so much."""

    def __init__(self, step: str, done_bytes: int) -> None:
        self._step, self._done_bytes, self._is_now = step, done_bytes, False

    def begin(self, step: str, _total_bytes: int | None) -> None:
        self._is_now = step.startswith(self._step)

    def advance(self, done_bytes: int) -> None:
        if self._is_now and done_bytes >= self._done_bytes:
            raise StoppedError


class Scene:
    """`place`: the directory of it all, with `home`, `shared` (a store) and `leased` (data).
    `early`: the same at an earlier moment; `foreign`: another home of the same kind."""

    def __init__(self, directory: Path) -> None:
        self.place = directory / "place"
        self.early = directory / "early"
        self.foreign = Command(directory / "foreign")
        self.command = Command(self.place / "home")
        self._late = directory / "late"
        self.points = {name: directory / name for name in ("secret", "other", "lazy", "leased")}
        self.out = directory / "out"
        self.image = directory / "image"
        self.content = random.Random(1).randbytes(SIZE)
        for each in (self.place, *self.points.values()):
            each.mkdir()
        self.image.write_bytes(self.content)
        self.ids: dict[str, str] = {}
        self.objects: dict[str, str] = {}
        self.right: dict[str, bytes] = {}
        self._build()
        self._build_foreign()

    # ------------------------------------------------------------------------------ what is there

    def _build(self) -> None:
        run = self.command.run
        run("init")
        for name, options in (("secret", []), ("plain", ["--unencrypted"]), ("other", [])):
            run("volume", "import", self.image, "--name", name, *options)
        self.key = run("kms", "create-key")
        run("store", "create", "shared", "--url", (self.place / "shared").as_uri())
        run("snapshot", "create", "--wait", "secret", "--name", "first")
        run("snapshot", "create", "--wait", "other", "--name", "gone")
        run("snapshot", "delete", "gone")
        copy = ("snapshot", "copy", "first", "--store", "shared", "--kms-key-id", self.key)
        run(*copy, "--name", "copied", "--wait")
        lazy = ("volume", "create", "--snapshot-id", "copied", "--kms-key-id", self.key)
        run(*lazy, "--name", "lazy", "--fill-rate", "1")
        data = ("--data", self.place / "leased", "--size", "1MiB", "--lease", "shared")
        run("volume", "create", "--name", "leased", *data)
        for name in ("other", "leased"):
            self._touch(name, 0)
        self._interrupt()
        self.keep(self.early)

        run("volume", "grow", "secret", "--size", "3MiB")
        self._touch("secret", 600_000)
        self._touch("other", 4096)
        self._touch("lazy", 600_000)
        run("snapshot", "create", "--wait", "secret", "--name", "second")
        self._touch("secret", MIB)
        run("kms", "create-key", "--description", "later")
        self._interrupt()
        run("snapshot", "create", "other", "--name", "killed", "--rate", "1")
        self.command.kill_workers()
        listed = self.command.json("volume", "list")["Volumes"]
        self.ids = {each["Name"]: each["VolumeId"] for each in listed}
        for name in ("leased", "other"):  # the last: another command would tidy up behind them
            self._mount(name)
        self.command.kill_processes()
        for name in ("leased", "other"):
            self.command.clear_dead_mount(self.points[name])
        self.keep(self._late)
        for name in (*self.points, "first"):
            self.right[name] = self.exported(name)
        self.right["plain"] = self.content
        self.restore()
        self._name_objects()

    def _name_objects(self) -> None:
        """The names of what snapshot `first` is made of."""
        with Home(self.command.home, runtime_root()) as home:
            manifest = load_snapshot(home, "first")
            table = chunk_table(store_of(home, manifest.store_id), manifest)
            names = {
                "chunk": layout.chunk_name(table.digest(1)),
                "page": layout.page_name(table.page_digest(0)),
                "table": layout.page_name(manifest.root),
            }
        self.objects = {kind: name.rpartition("/")[2] for kind, name in names.items()}
        self.objects["first"] = manifest.snapshot_id
        self.objects["copying"] = self.find("home/work/snap-*.copy").stem
        self.objects["killed"] = self.find("home/jobs/snap-*").name

    def _build_foreign(self) -> None:
        """As much of another home as somebody could put in the place of ours."""
        self.foreign.run("init")
        self.foreign.run("volume", "import", self.image, "--name", "secret")
        self.foreign.run("snapshot", "create", "--wait", "secret", "--name", "first")

    def _mount(self, name: str) -> None:
        self.command.run("mount", name, self.points[name], "--data-plane", "native")

    def _touch(self, name: str, offset: int) -> None:
        """Write 4096 bytes through a mount that ends in order."""
        self._mount(name)
        descriptor = os.open(self.points[name] / "volume", os.O_RDWR)
        try:
            os.pwrite(descriptor, random.Random(offset).randbytes(4096), offset)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.command.run("unmount", name)

    def _interrupt(self) -> None:
        """Begin, or go on with, an import and an encryption, and leave them a chunk later."""

        def importing(home: Home, progress: Progress) -> None:
            import_volume(
                home,
                self.image,
                name="imported",
                choice=KeyChoice(),
                progress=progress,
                expect_sha256=None,
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

        works: dict[str, Callable[[Home, Progress], None]] = {
            "importing": importing,
            "copying": encrypting,
        }
        kept = import_run.CURSOR_BYTES, import_run.CURSOR_PARTS
        import_run.CURSOR_BYTES, import_run.CURSOR_PARTS = 1, 8  # type: ignore[misc]
        try:
            with Home(self.command.home, runtime_root()) as home:
                for step, work in works.items():
                    with suppress(StoppedError):
                        work(home, StopWhen(step, CHUNK_BYTES + 1))
        finally:
            import_run.CURSOR_BYTES, import_run.CURSOR_PARTS = kept  # type: ignore[misc]

    def keep(self, copy: Path) -> None:
        subprocess.run(["cp", "-a", "--sparse=always", self.place, copy], check=True)

    def restore(self) -> None:
        """All as it was before the first damage."""
        self.command.kill_processes()
        shutil.rmtree(self.place)
        self.command.forget_runtime()
        for point in self.points.values():
            if os.path.ismount(point):
                self.command.clear_dead_mount(point)
        subprocess.run(["cp", "-a", "--sparse=always", self._late, self.place], check=True)
        self.out.unlink(missing_ok=True)

    def exported(self, name: str) -> bytes:
        """The plaintext of a volume, or of a snapshot."""
        verb = ("snapshot", "export", "--yes") if name == "first" else ("volume", "export", "--yes")
        self.command.run(*verb, name, self.out)
        content = self.out.read_bytes()
        self.out.unlink()
        return content

    def find(self, pattern: str) -> Path:
        """The last of the files that match; `{NAME}` is a volume, or one of `objects`."""
        names = {**self.ids, **self.objects}
        return max(self.place.glob(pattern.format(**names)), default=self.place / "none")

    def probe(self, probes: tuple[tuple[str, ...], ...]) -> subprocess.CompletedProcess[str]:
        """Run commands, the first that fails or all; what came of the last."""
        for probe in probes:
            words = [each.format(out=self.out, image=self.image) for each in probe]
            done = self.command.try_run(*words)
            if done.returncode != 0:
                break
        return done

    def files(self, root: Path | None = None) -> list[str]:
        """All files of a moment, by their paths below it."""
        root = root or self.place
        return sorted(str(p.relative_to(root)) for p in root.rglob("*") if not p.is_dir())
