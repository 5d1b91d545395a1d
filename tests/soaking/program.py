"""Hours of mixed load on a whole home, of which every byte is known.

    python -m tests.soaking.program --hours 8 [--seed N] [--directory DIR]

Three volumes are written to, read, synced and discarded all the time, and the KMS daemon is asked
over HTTP, while these take turns: snapshots (each compared as a whole with what was written when it
was made), copies under another key, restores, deletions, rotation of keys, `rekey` of a volume in
use, `encrypt --online` and growth of one that is made for it, and restarts, upgrades and kills of
the processes that serve a volume and the KMS. One volume is mounted from the beginning to the end.

In between it notes memory, descriptors and threads of each process, latencies, and numbers of
files; what grows over time fails the run, as does a byte that is wrong (`flatness`, `ledger`). The
last lines are the figures.
"""

import argparse
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.command import VOLCRYPT, Command, disposable_home, kill_and_wait
from tests.forked import FORKER
from tests.service_manager import ServiceManager, service_manager
from tests.soaking.flatness import Register
from tests.soaking.kms_daemon import DEADLINE_SECONDS, KmsDaemon
from tests.soaking.ledger import UNIT_BYTES, Ledger, Numbers
from tests.soaking.writer import Writer
from volcrypt.volume.kept_mount import KEPT

MIB: Final = 2**20
SIZE: Final = 24 * MIB
SMALL: Final = 6 * MIB
KEPT_SNAPSHOTS: Final = 3


class Soak:
    """One run in `directory`. `kept` is mounted all the time; `served` is attached by a service
    that is restarted, upgraded and killed; both get new keys. Others are made and deleted."""

    def __init__(
        self, directory: Path, command: Command, manager: ServiceManager, seed: int
    ) -> None:
        self.register = Register()
        self.counts: dict[str, int] = {}
        self._directory = directory
        self._command = command
        self._run = command.run
        self._manager = manager
        self._dice = random.Random(seed)
        self._seed = seed
        self._snapshots: list[tuple[str, Ledger, Numbers]] = []
        self._copies: list[str] = []
        self._number = 0
        self._writers: dict[str, Writer] = {}
        self._kms: KmsDaemon | None = None
        self._stop = threading.Event()
        self._sampler: threading.Thread | None = None
        self._sample_seconds = 2.0

    # ------------------------------------------------------------------------------ from the top

    def soak(self, seconds: float) -> None:
        """Take turns for so long; raises what went wrong, grew or was left over."""
        self._sample_seconds = max(1.0, seconds / 300)
        self._go(self._turns_for(seconds))

    def each_once(self) -> None:
        """Take each turn once, in an order in which each has something to do."""
        self._go(self._turns())

    def _go(self, turns: Iterable[Callable[[], None]]) -> None:
        try:
            self._set_up()
            self._sampler = threading.Thread(target=self._sample, daemon=True)
            self._sampler.start()
            for turn in turns:
                self._take(turn)
            self._end()
        finally:
            self._stop.set()
            if self._kms is not None:
                self._kms.kill()
        problems = self.register.problems()
        assert not problems, "; ".join(problems)

    def _turns_for(self, seconds: float) -> Iterator[Callable[[], None]]:
        end = time.monotonic() + seconds
        while True:
            for turn in self._dice.sample(self._turns(), len(self._turns())):
                if time.monotonic() > end:
                    return
                yield turn

    def _turns(self) -> list[Callable[[], None]]:
        return [
            self.snapshot_kept,
            self.snapshot_served,
            self.copy,
            self.restore,
            self.delete_oldest,
            self.rotate,
            self.rekey,
            self.encrypt_and_grow,
            self.kill_server,
            self.upgrade_server,
            self.restart_server,
            self.restart_kms,
            self.verify_all,
        ]

    def _take(self, turn: Callable[[], None]) -> None:
        name = getattr(turn, "__name__", "?")
        started = time.monotonic()
        turn()
        self.counts[name] = self.counts.get(name, 0) + 1
        for each in self._writers.values():
            each.check()
        assert self._kms is not None
        self._kms.check()
        print(f"{time.strftime('%T')} {name} {time.monotonic() - started:.1f} s", flush=True)

    def _set_up(self) -> None:
        run = self._run
        run("init")
        self._kms = KmsDaemon(self._command, self._directory)
        self._new_key(make_alias=True)
        run("store", "create", "shared", "--url", (self._directory / "shared").as_uri())
        for name in ("kept", "served"):
            options = ("--size", f"{SIZE}B", "--kms-key-id", "alias/soak")
            run("volume", "create", "--name", f"{name}{self._seed}", *options)
        self._point = self._directory / "kept"
        self._point.mkdir()
        run("mount", self._name("kept"), self._point, "--discard", "--data-plane", "native")
        (self._kept_pid,) = self._command.processes()
        self._begin("kept", self._point / "volume", tag=1, discards=True)
        self._start_server()
        self._begin("served", Path("/dev/volcrypt", self._name("served")), tag=2)

    def _name(self, volume: str) -> str:
        return f"{volume}{self._seed}"

    def _begin(self, name: str, path: Path, *, tag: int, discards: bool = False) -> None:
        ledger = Ledger(SIZE // UNIT_BYTES, tag=tag)
        writer = Writer(path, ledger, seed=self._dice.randrange(2**32), discards=discards)
        writer.start()
        self._writers[name] = writer

    def _end(self) -> None:
        """Take it all down in order, and look for what is left over."""
        self.verify_all()
        self._stop.set()
        assert self._sampler is not None
        self._sampler.join(DEADLINE_SECONDS)
        for writer in self._writers.values():
            writer.end()
        while self._snapshots:
            self.delete_oldest()
        self._run("unmount", self._name("kept"))
        self._run("detach", self._name("served"))
        for name, writer in self._writers.items():
            self._compare_export("volume", self._name(name), writer.ledger, writer.ledger.last)
        self._run("audit", "verify")
        self._run("snapshot", "verify")
        self._run("snapshot", "verify", "--store", "shared")
        for name in ("kept", "served"):
            self._run("volume", "delete", "--yes", self._name(name))
        assert self._kms is not None
        self._kms.end()

    # ------------------------------------------------------------------------------------ turns

    def snapshot_kept(self) -> None:
        self._snapshot("kept")

    def snapshot_served(self) -> None:
        self._snapshot("served")

    def _snapshot(self, volume: str) -> None:
        """Fixed while nobody writes, stored while somebody does, compared as a whole."""
        self._number += 1
        name = f"snapshot-{self._number}"
        with self._writers[volume].paused() as ledger:
            self._run("snapshot", "create", self._name(volume), "--name", name)
            last = ledger.copy()
        self._run("snapshot", "wait", name)
        self._compare_export("snapshot", name, ledger, last)
        self._snapshots.append((name, ledger, last))

    def copy(self) -> None:
        """Under the key of this moment, in another store; the one before goes."""
        if not self._snapshots:
            return
        name, ledger, last = self._snapshots[-1]
        copy = f"{name}-copy-{self._number}-{self._dice.randrange(10**6)}"
        to = ("--store", "shared", "--kms-key-id", "alias/soak", "--wait")
        self._run("snapshot", "copy", name, *to, "--name", copy)
        self._run("snapshot", "verify", copy)
        self._compare_export("snapshot", copy, ledger, last)
        self._copies.append(copy)
        while len(self._copies) > KEPT_SNAPSHOTS:
            self._run("snapshot", "delete", self._copies.pop(0))

    def restore(self) -> None:
        """A volume made of a snapshot, used while it is filled."""
        if not self._snapshots:
            return
        name, ledger, last = self._dice.choice(self._snapshots)
        point = self._directory / "restored"
        point.mkdir(exist_ok=True)
        self._run("volume", "create", "--snapshot-id", name, "--name", "restored")
        self._run("mount", "restored", point)
        ledger.check((point / "volume").read_bytes(), last=last)
        self._run("unmount", "restored")
        self._run("volume", "delete", "--yes", "restored")

    def delete_oldest(self) -> None:
        if len(self._snapshots) > KEPT_SNAPSHOTS or self._stop.is_set():
            self._run("snapshot", "delete", self._snapshots.pop(0)[0])
        while self._copies and self._stop.is_set():
            self._run("snapshot", "delete", self._copies.pop(0))

    def rotate(self) -> None:
        """The key gets new material; where it had that ten times, the alias gets a new key."""
        rotate = ("kms", "rotate-key-on-demand", "--key-id", self._key)
        if self._command.try_run(*rotate).returncode != 0:
            self._new_key()

    def _new_key(self, *, make_alias: bool = False) -> None:
        self._key = self._command.json("kms", "create-key")["KeyMetadata"]["KeyId"]
        operation = "create-alias" if make_alias else "update-alias"
        options = ("--alias-name", "alias/soak", "--target-key-id", self._key)
        self._run("kms", operation, *options)

    def rekey(self) -> None:
        """A new data key for each of the two, in use."""
        volume = self._name(self._dice.choice(["kept", "served"]))
        self._run("rekey", volume, "--kms-key-id", "alias/soak")

    def encrypt_and_grow(self) -> None:
        """A volume that begins without encryption, under load."""
        point = self._directory / "small"
        point.mkdir(exist_ok=True)
        self._run("volume", "create", "--size", f"{SMALL}B", "--unencrypted", "--name", "small")
        self._run("mount", "small", point)
        writer = Writer(
            point / "volume",
            Ledger(SMALL // UNIT_BYTES, tag=3),
            seed=self._dice.randrange(2**32),
        )
        writer.start()
        self._run("encrypt", "small", "--online", "--kms-key-id", "alias/soak")
        self._run("volume", "grow", "small", "--size", f"{SMALL + 2 * MIB}B")
        with writer.paused() as ledger:
            ledger.grow((SMALL + 2 * MIB) // UNIT_BYTES)
        time.sleep(1)
        writer.verify()
        writer.end()
        self._run("unmount", "small")
        self._compare_export("volume", "small", writer.ledger, writer.ledger.last)
        self._run("volume", "delete", "--yes", "small")

    def kill_server(self) -> None:
        """The next process goes on with what the one that was killed had mounted; the writer does
        not know of it."""
        kill_and_wait(self._manager.main_pid)
        self._start_server()

    def upgrade_server(self) -> None:
        done = subprocess.run(
            [
                VOLCRYPT,
                "--home",
                self._command.home,
                "detach",
                self._name("served"),
                "--unit",
                "x.service",
            ],
            env={**os.environ, "PATH": f"{self._programs()}:{os.environ['PATH']}"},
            check=True,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
        )
        assert "is left to the next process" in done.stdout
        self._start_server()

    def restart_server(self) -> None:
        with self._writers["served"].paused(closed=True):
            self._run("detach", self._name("served"))
            self._start_server()
        self._writers["served"].verify()

    def _start_server(self) -> None:
        attach = (VOLCRYPT, "--home", self._command.home, "attach", self._name("served"))
        self._manager.start([*attach, "--foreground"])
        self._manager.wait_until_kept(KEPT)

    def _programs(self) -> Path:
        programs = self._directory / "bin"
        programs.mkdir(exist_ok=True)
        systemctl = programs / "systemctl"
        systemctl.write_text("#!/bin/sh\necho 7 x.service restart running\n")
        systemctl.chmod(0o755)
        return programs

    def restart_kms(self) -> None:
        """Not often: what it takes is to be seen over time."""
        assert self._kms is not None
        if self._dice.random() < 0.2:
            self._kms.stop()
            self._kms.start()

    def verify_all(self) -> None:
        for writer in self._writers.values():
            writer.verify()

    def _compare_export(self, kind: str, name: str, ledger: Ledger, last: Numbers) -> None:
        out = self._directory / "out"
        self._run(kind, "export", "--yes", name, out)
        ledger.check(out.read_bytes(), last=last)
        out.unlink()

    # ---------------------------------------------------------------------------------- figures

    def _sample(self) -> None:
        while not self._stop.wait(self._sample_seconds):
            self._note()

    def _note(self) -> None:
        assert self._kms is not None
        note = self.register
        note.note_process("process of the volume that is kept", self._kept_pid)
        note.note_process(f"kms serve {self._kms.pid}", self._kms.pid)
        note.note_latencies("kms encrypt", self._kms.latencies())
        for name, writer in self._writers.items():
            for kind, seconds in writer.latencies().items():
                note.note_latencies(f"{name} {kind}", seconds)
        for part in ("jobs", "work", "stores", "volumes"):
            with suppress(OSError):
                note.note(f"{part}/", "files", len(os.listdir(self._command.home / part)))
        with suppress(OSError):
            note.note("runtime", "files", len(os.listdir(self._command.runtime)))


@contextmanager
def new_soak(directory: Path, *, seed: int) -> Iterator[Soak]:
    """A run that leaves nothing behind outside of `directory`."""
    with ExitStack() as stack:
        stack.callback(FORKER.close)
        manager = stack.enter_context(service_manager(directory))
        command = stack.enter_context(disposable_home(directory / "home"))
        yield Soak(directory, command, manager, seed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 10**6)
    parser.add_argument("--directory", type=Path, help="on the file system to be tested")
    given = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="volcrypt-soak-", dir=given.directory))
    print(f"seed {given.seed}, in {directory}")
    with new_soak(directory, seed=given.seed) as soak:
        try:
            soak.soak(given.hours * 3600)
        finally:
            print("\n".join(soak.register.table()))
            print(", ".join(f"{name} {count}" for name, count in sorted(soak.counts.items())))
    shutil.rmtree(directory)
    print("nothing was wrong, and nothing grew")


if __name__ == "__main__":
    main()
