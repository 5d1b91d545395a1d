"""`status --watch` on a real terminal, and what it draws of any state of a home."""

import io
import os
import pty
import select
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from tests.command import VOLCRYPT, Command, disposable_home
from tests.terminal import ENTERS, LEAVES, SHOWS_CURSOR, Terminal, on_terminal
from volcrypt.cli import watch
from volcrypt.cli.watch_frame import frame
from volcrypt.errors import ConfigurationError
from volcrypt.geometry import UNIT_BYTES
from volcrypt.names import DataKeyId, SnapshotId
from volcrypt.operations.home import Home
from volcrypt.operations.jobs import Job
from volcrypt.operations.live_status import OVERVIEW_SECONDS, LiveLook, LiveStatus, Rate, Rates
from volcrypt.operations.uses import InUse
from volcrypt.settings import runtime_root
from volcrypt.volume.control_messages import MigrationState


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as made:
        made.run("init")
        made.run("volume", "create", "--size", "1MiB", "--name", "orders")
        yield made


def watching(command: Command) -> list[str | Path]:
    return [VOLCRYPT, "--home", command.home, "status", "--watch"]


def longest_line(terminal: Terminal) -> int:
    return max(map(len, terminal.screen.splitlines()))


def check_given_back(terminal: Terminal) -> None:
    """The terminal is as it was before."""
    assert terminal.output.count(ENTERS) == terminal.output.count(LEAVES) == 1
    assert SHOWS_CURSOR in terminal.output[terminal.output.index(ENTERS) :]
    assert terminal.output.rindex(LEAVES) > terminal.output.rindex("q ends")
    assert "Traceback" not in terminal.output


@pytest.mark.parametrize(
    ("end", "code"),
    [("q", 0), ("Q", 0), ("\x03", 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_the_terminal_is_given_back(command: Command, end: str | int, code: int) -> None:
    with on_terminal(watching(command)) as terminal:
        before = terminal.mode
        terminal.wait_for("orders")
        assert terminal.mode != before  # keys come one by one, and are not shown
        if isinstance(end, str):
            terminal.press("x\x1a")  # other keys, and Ctrl-Z, do nothing
            terminal.press(end)
        else:
            os.kill(terminal.pid, end)
        assert terminal.ends() == code
        assert terminal.mode == before
    check_given_back(terminal)


def test_a_key_that_ctrl_c_threw_away_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "wb", buffering=0) as keyboard, os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        rescue = threading.Timer(30, keyboard.write, [b"q"])  # who waits would wait for ever
        with watch._keys() as (key,):
            rescue.start()
            assert not watch._ends(key)
            rescue.cancel()
            keyboard.write(b"q")
            select.select([key], [], [], 30)
            assert watch._ends(key)


def test_volumes_come_and_go_and_the_window_changes(command: Command, tmp_path: Path) -> None:
    point = tmp_path / "point"
    point.mkdir()
    with on_terminal(watching(command), columns=200) as terminal:
        terminal.wait_for("0 in use")
        command.run("volume", "create", "--size", "1MiB", "--name", "letters", "--unencrypted")
        terminal.wait_for("letters")
        command.run("mount", "letters", point)
        terminal.wait_for("1 in use")
        terminal.wait_for(str(point))
        assert longest_line(terminal) > 60
        terminal.resize(lines=12, columns=60)
        terminal.wait_for("…")  # what has no room is cut
        assert longest_line(terminal) <= 60
        with open(point / "volume", "r+b", buffering=0) as file:
            file.write(bytes(64 * UNIT_BYTES))
            os.fsync(file.fileno())
        command.kill_processes()
        terminal.wait_for("0 in use")
        command.run("unmount", point)
        command.run("volume", "delete", "letters")
        terminal.wait_for("volumes 1,")
        assert "letters" not in terminal.screen
        terminal.press("q")
        assert terminal.ends() == 0
    check_given_back(terminal)


def test_a_home_that_goes_away(command: Command) -> None:
    with on_terminal(watching(command)) as terminal:
        before = terminal.mode
        terminal.wait_for("orders")
        command.home.rename(command.home.with_name("away"))
        assert terminal.ends() == 3
        assert terminal.mode == before
    check_given_back(terminal)
    assert "error: no volcrypt home" in terminal.output.rpartition(LEAVES)[2]
    command.home.with_name("away").rename(command.home)


def test_it_needs_a_terminal(command: Command) -> None:
    assert "while sleep 1" in command.fails(2, "status", "--watch")
    command.fails(2, "--json", "status", "--watch")
    with on_terminal(watching(command), term="dumb") as terminal:
        assert terminal.ends() == 2
    assert ENTERS not in terminal.output


def test_where_there_is_no_home(tmp_path: Path) -> None:
    with on_terminal(watching(Command(tmp_path / "none"))) as terminal:
        assert terminal.ends() == 3
    assert f"hint: 'volcrypt --home {tmp_path / 'none'} init'" in terminal.output
    assert ENTERS not in terminal.output


# ---------------------------------------------------------------- looking


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_kms_is_asked_once_a_minute(command: Command) -> None:
    clock = Clock()
    look = LiveLook(lambda: Home(command.home, runtime_root()), clock=clock)

    def asked() -> int:
        audit = next((command.home / "kms/audit").glob("*.jsonl"))
        return audit.read_bytes().count(b'"ListKeys"')

    look.look()
    before = asked()
    for _ in range(5):
        clock.now += 1
        assert look.look().age_seconds == clock.now
    assert asked() == before
    clock.now += OVERVIEW_SECONDS
    assert look.look().age_seconds == 0
    assert asked() == before + 1


def test_a_kms_that_is_gone_meanwhile_is_said_and_ends_nothing(command: Command) -> None:
    clock = Clock()
    look = LiveLook(lambda: Home(command.home, runtime_root()), clock=clock)
    look.look()
    (command.home / "kms/catalog.sqlite3").rename(command.home / "kms/away")
    clock.now = OVERVIEW_SECONDS
    seen = look.look()
    assert seen.problem is not None
    assert "last looked at 60 s ago: " in drawn(seen)
    (command.home / "kms/away").rename(command.home / "kms/catalog.sqlite3")
    # Not tried again each second.
    assert look.look().problem is not None
    clock.now = 2 * OVERVIEW_SECONDS
    assert look.look().problem is None


def test_the_pin_is_asked_for_once(tmp_path: Path) -> None:
    clock, asked = Clock(), []

    def pin(may_ask: bool) -> bytearray | None:
        asked.append(may_ask)
        return bytearray(b"482916") if may_ask else None

    with disposable_home(tmp_path / "other") as command:
        command.run("init", "--pin-file", "-", stdin=b"482916")
        look = LiveLook(lambda: Home(command.home, runtime_root(), pin=pin), clock=clock)
        look.look()
        assert asked.count(True) == 1
        clock.now = OVERVIEW_SECONDS
        assert look.look().problem == "that takes the PIN"
        assert asked.count(True) == 1


@pytest.mark.parametrize("plane", ["python", "native"])
def test_what_is_read_and_written_is_counted(command: Command, tmp_path: Path, plane: str) -> None:
    point = tmp_path / "point"
    point.mkdir()
    command.run("mount", "orders", point, "--data-plane", plane)

    def counted() -> tuple[int, int]:
        (use,) = command.json("status")["InUse"]
        return use["ReadBytes"], use["WrittenBytes"]

    before = counted()
    with open(point / "volume", "r+b", buffering=0) as file:
        for size in (4 * UNIT_BYTES, UNIT_BYTES, 100, UNIT_BYTES):
            file.seek(0)
            file.write(os.urandom(size))
        file.seek(0)
        file.read(8 * UNIT_BYTES)
    after = counted()
    assert after[1] - before[1] == 6 * UNIT_BYTES + 100
    assert after[0] - before[0] >= 8 * UNIT_BYTES
    command.run("unmount", "orders")


def use(**members: object) -> InUse:
    first = InUse(
        volume_id="vol-1", name="a", purpose="mount", pid=1, mount_point="/mnt", device=None,
        read_bytes=0, written_bytes=0,
    )  # fmt: skip
    return replace(first, **members)  # type: ignore[arg-type]


def test_rates() -> None:
    rates = Rates()
    assert rates.look([use()], 0.0) == {}
    later = use(read_bytes=2000, written_bytes=500)
    assert rates.look([later], 2.0) == {"vol-1": Rate(read=1000.0, written=250.0)}
    assert rates.look([use(pid=2)], 3.0) == {}, "another process counts from the start"
    assert rates.look([], 4.0) == {}
    assert rates.look([use(read_bytes=None)], 5.0) == {}
    assert rates.look([use(read_bytes=10)], 6.0) == {}


# ---------------------------------------------------------------- drawing


def drawn(live: LiveStatus, *, height: int = 24, width: int = 120) -> str:
    console = Console(width=width, height=height, force_terminal=False, file=io.StringIO())
    with console.capture() as captured:
        console.print(frame(live, height=height, now=0.0))
    lines = captured.get().splitlines()
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    return captured.get()


@pytest.fixture
def live(command: Command) -> LiveStatus:
    return LiveLook(lambda: Home(command.home, runtime_root())).look()


def test_it_fits_every_window(live: LiveStatus) -> None:
    many = [use(volume_id=f"vol-{n}", name=f"[red]volume[/red] {n} " + "x" * 40) for n in range(30)]
    warnings = [f"something {n} " + "y" * 300 for n in range(30)]
    jobs = [Job(snapshot_id=SnapshotId(f"snap-{n}"), record=None, reason=None) for n in range(30)]
    full = replace(live, status=replace(live.status, in_use=many, warnings=warnings, pending=jobs))
    for height in (1, 3, 5, 8, 12, 24, 100):
        for width in (20, 80, 200):
            drawn(full, height=height, width=width)
    text = drawn(full, height=24, width=100)
    assert "[red]volume" in text, "names are no markup"
    assert "snap-0" in text
    assert text.count(" more\n") == 2
    assert "more: volcrypt status" in text


def test_the_head_of_a_busy_home_fits_an_ordinary_window(live: LiveStatus) -> None:
    busy = [use(volume_id=f"vol-{n}") for n in range(12)]
    status = replace(
        live.status, home="/var/lib/volcrypt", in_use=busy, volumes=12, unencrypted_volumes=12,
        snapshots=123, keys=12, free_bytes=1234 * 2**27,
    )  # fmt: skip
    title, summary, *_ = drawn(replace(live, status=status), width=80).splitlines()
    assert title.split() == [
        "volcrypt", "/var/lib/volcrypt", "us-east-1", "00:00:00", "UTC", "q", "ends"
    ]  # fmt: skip
    assert summary == (
        "volumes 12, 12 in use, 12 not encrypted  snapshots 123  keys 12  free 154.2 GiB"
    )


def test_rates_and_states_are_shown(live: LiveStatus) -> None:
    (record,) = live.records
    busy = use(volume_id=record.volume_id, name="orders")
    status = replace(live.status, in_use=[busy])
    rates: dict[str, Rate] = {record.volume_id: Rate(read=3 * 2**20, written=2**10)}
    text = drawn(replace(live, status=status, rates=rates))
    assert "3 MiB" in text
    assert "1 KiB" in text
    assert "mount 1" in text
    assert "/mnt" in text
    assert " - " in drawn(replace(live, status=status, rates={}))


def migration(**members: object) -> MigrationState:
    first = MigrationState(
        migration=b"m", phase="copy", source_key_id=None, target_key_id=DataKeyId("dk-1"),
        chunks=200, cursor=50, durable=40, verified=0, to_repeat=0, copied_bytes=25 * 2**20,
        busy_seconds=5.0, rate_bytes=None, paused=False, problem=None, writes=0, p50_us=0,
        p99_us=0, worst_us=0,
    )  # fmt: skip
    return msgspec.structs.replace(first, **members)


def test_a_migration_is_shown(live: LiveStatus) -> None:
    (record,) = live.records
    key, rates = record.volume_id, Rates()

    def shown(now: float, **members: object) -> str:
        moving = use(volume_id=key, name="orders", migration=migration(**members))
        status = replace(live.status, in_use=[moving])
        seen = replace(live, status=status, rates=rates.look([moving], now))
        for height in (1, 5, 8, 12):
            drawn(seen, height=height, width=40)
        return " ".join(drawn(seen).split())

    assert "25% 5 MiB/s 15 s" in shown(0), "what its process says, before there are two looks"
    assert "copying" in shown(1)
    assert "50% 25 MiB/s 2 s" in shown(2, cursor=100)
    assert "comparing" in shown(3, phase="verify", cursor=200)
    assert "10% 10 MiB/s 9 s" in shown(4, phase="verify", cursor=200, verified=20)
    text = shown(5, cursor=150, paused=True)
    assert "paused" in text
    assert "/s " not in text.partition("paused")[2]
    assert "has to begin anew: the disk is full" in shown(6, problem="the disk is full")


def test_the_first_look_fails_as_any_command() -> None:
    def fails() -> Home:
        raise ConfigurationError("no home")

    with pytest.raises(ConfigurationError):
        LiveLook(fails).look()
