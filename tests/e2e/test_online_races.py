"""Several commands at once at a volume that goes over to new data, under a writer: each succeeds or
is refused with a reason, nothing hangs, and nothing that was synced is lost."""

import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.command import VOLCRYPT, Command, disposable_home
from tests.crash.writer import Writer

MIB: Final = 2**20
SIZE: Final = 8 * MIB
ORDERLY: Final = {0, 2, 3, 4, 7}
"""Done, wrong now, not there, in use, and to be tried again."""


class Race:
    def __init__(self, command: Command, directory: Path, seed: int) -> None:
        self.command = command
        self.dice = random.Random(seed)
        self.point = directory / "point"
        self.point.mkdir()
        self.content = self.dice.randbytes(SIZE // 2) + bytes(SIZE // 2)
        self.bytes_more = 0
        self.seen: Counter[str] = Counter()
        (directory / "source").write_bytes(self.content)
        command.run("init")
        command.run("volume", "import", directory / "source", "--name", "data", "--unencrypted")
        command.run("mount", "data", self.point)

    @property
    def file(self) -> Path:
        return self.point / "volume"

    def requests(self) -> list[list[str]]:
        self.bytes_more += MIB
        going = [
            ["encrypt", "data", "--online"],
            ["encrypt", "data", "--resume"],
            ["rekey", "data"],
        ]
        return [
            *going,
            *([*each, "--rate", "8MiB"] for each in going),
            *(
                [verb, "data", how]
                for verb in ("encrypt", "rekey")
                for how in ("--pause", "--abort")
            ),
            ["encrypt", "data"],
            ["snapshot", "create", "--wait", "data"],
            ["volume", "grow", "data", "--size", str(SIZE + self.bytes_more)],
            ["unmount", "data"],
            ["volume", "delete", "data"],
            ["status"],
        ]

    def run_some(self, count: int) -> None:
        """At once."""
        begun = []
        for request in self.dice.choices(self.requests(), k=count):
            time.sleep(self.dice.uniform(0, 0.4))  # at any moment of the others
            process = subprocess.Popen(
                [VOLCRYPT, "--home", self.command.home, *request],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            begun.append((request, process))
        for request, process in begun:
            try:
                _, errors = process.communicate(timeout=120)
            finally:
                process.kill()
            told = f"{request}: {process.returncode}\n{errors}"
            assert process.returncode in ORDERLY, told
            assert "Traceback" not in errors, told
            assert "internal error" not in errors, told
            self.seen[f"{' '.join(request[:1] + request[2:3])} {process.returncode}"] += 1

    def finish(self) -> None:
        """By one command, without a look at what the others left."""
        verb = "rekey" if self.command.json("volume", "show", "data")["Encrypted"] else "encrypt"
        self.command.run(verb, "data", *(["--online"] if verb == "encrypt" else []))
        assert self.command.json("status")["Workflows"] == []
        left = {path.name for path in self.command.home.glob("volumes/*/*")}
        assert left - {"owner", "record", "record.spare", "grant", "change-map"} == {"data"}

    def play(self, rounds: int) -> None:
        for _ in range(rounds):
            with Writer(self.file, self.content) as writer:
                self.run_some(4)
                writer.await_syncs(writer.syncs + 1)
                if self.dice.random() < 0.5:
                    self.finish()
            assert writer.error is None
            self.content = self.file.read_bytes()[:SIZE]
            writer.check(self.content)
        self.finish()
        self.command.run("unmount", "data")
        self.command.run("mount", "data", self.point)
        assert self.file.read_bytes()[:SIZE] == self.content
        self.command.run("unmount", "data")


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as made:
        yield made


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10, 14))
def test_many_commands_at_once(command: Command, tmp_path: Path, seed: int) -> None:
    race = Race(command, tmp_path, seed)
    race.play(15)
    print(f"\n{dict(race.seen)}")
