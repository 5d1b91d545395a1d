"""What the histories of `tests/product.py` know, and how they do something."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.product_stage import KMS_KEYS, Done, Stage, Trouble

PLAIN, CUSTOMER, DEFAULT, UNSAID = "plain", "customer", "default", "unsaid"
CHOICES = (UNSAID, PLAIN, CUSTOMER, DEFAULT, *KMS_KEYS)
STORES = ("local", "away")
SECRET, OPEN = b"never to be seen in a file ", b"nobody wanted this encrypted"
DONE, USAGE, NOT_FOUND, IN_USE, DENIED, TRY_AGAIN = 0, 2, 3, 4, 5, 7
MOST = 6
"""Volumes, and snapshots, at a time: what is looked at after every step."""

Thing = TypeVar("Thing")


@dataclass(eq=False)
class Key:
    arn: str
    state: str = "Enabled"
    grant: str | None = None
    is_denied: bool = False

    @property
    def is_usable(self) -> bool:
        return self.state == "Enabled"


@dataclass(eq=False)
class Volume:
    """`under` a key by its name. `source`: what its snapshot is under, as long as some of it may
    still be there and nowhere else; for sure, unless it `may_be_whole`. `is_lazy`: it has not been
    read from one end to the other since it was made of a snapshot."""

    name: str
    image: bytearray
    under: str
    source: str | None = None
    may_be_whole: bool = True
    is_lazy: bool = False
    is_mounted: bool = False


@dataclass(eq=False)
class Snapshot:
    name: str
    image: bytes
    under: str
    store: str
    parent: "Snapshot | None" = None


@dataclass
class ProductCore:
    stage: Stage
    volumes: list[Volume] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    default: str = DEFAULT
    is_by_default: bool = False
    history: list[str] = field(default_factory=list)
    count: int = 0
    checked: int = 0

    def __post_init__(self) -> None:
        self.stage.reset()
        self.keys = {name: Key(arn) for name, arn in self.stage.keys.items()}

    # ------------------------------------------------------------------------- what is known

    def name(self, letter: str) -> str:
        self.count += 1
        return f"{letter}{self.count}"

    def is_usable(self, *unders: str | None) -> bool:
        return all(under not in self.keys or self.keys[under].is_usable for under in unders)

    def opening(self, volume: Volume, may: Callable[[str], bool]) -> Collection[int]:
        """How it ends when somebody opens a volume, who may use some keys."""
        if not may(volume.under):
            return [DENIED]
        if volume.source is None or may(volume.source):
            return [DONE]
        return [DONE, DENIED] if volume.may_be_whole else [DENIED]

    def making(self, under: str) -> Collection[int]:
        """How it ends when something is made under a key."""
        if under in self.keys and self.keys[under].state == "Gone":
            return [NOT_FOUND, DENIED]
        return [DONE] if self.is_usable(under) else [DENIED]

    def choice(self, choice: str) -> list[str]:
        if choice == PLAIN:
            return ["--unencrypted"]
        if choice == CUSTOMER:
            return ["--customer-key-file", str(self.stage.root / "customer")]
        return [] if choice == UNSAID else ["--kms-key-id", self.keys[choice].arn]

    def given(self, under: str, *, source: bool = False) -> list[str]:
        """The customer-provided key, for what is under it."""
        option = "--source-customer-key-file" if source else "--customer-key-file"
        return [option, str(self.stage.root / "customer")] if under == CUSTOMER else []

    def point(self, volume: Volume) -> Path:
        return self.stage.root / f"point-{volume.name}"

    # ------------------------------------------------------------------------- what happens

    def do(
        self,
        *arguments: str | Path,
        codes: Collection[int] = (DONE,),
        trouble: Trouble | None = None,
        is_done: Callable[[], bool] = lambda: False,
        again_codes: Collection[int] = (DONE,),
    ) -> Done:
        """A command that ends as it must. If `trouble` comes to it, then what it was to do is done,
        or the same command does it with nothing in its way, and ends as it must or by one of
        `again_codes`."""
        if DONE not in codes:
            trouble = None
        words = " ".join(str(each) for each in arguments)
        self.history.append(words + (f"   [{trouble}]" if trouble else ""))
        done = self.stage.run(*arguments, trouble=trouble)
        if done.came and done.code != DONE:
            self.history[-1] += f" -> {done.code} {done.err.strip().splitlines()[-1:]}"
            self.check_traceback(done)
            if is_done():
                return Done(DONE, "", "")
            codes = {*codes, *again_codes}
            done = self.again(arguments, codes)
        else:
            self.history[-1] += f" -> {done.code}"
        assert done.code in codes, f"{words}: {done.code}, not {codes}\n{done.err}\n{self}"
        self.check_traceback(done)
        return done

    def again(self, arguments: Sequence[str | Path], codes: Collection[int]) -> Done:
        """Who works with one that was killed hears of its end a moment later."""
        deadline = time.monotonic() + 30
        while True:
            done = self.stage.run(*arguments)
            if done.code in codes or done.code not in {IN_USE, TRY_AGAIN}:
                return done
            if time.monotonic() > deadline:
                return done
            time.sleep(0.05)

    def check_traceback(self, done: Done) -> None:
        assert "Traceback" not in done.err, f"{done.err}\n{self}"
        assert "internal error" not in done.err, f"{done.err}\n{self}"

    def __str__(self) -> str:
        return "\n".join(f"{number:3} {line}" for number, line in enumerate(self.history))

    def listed(self, kind: str) -> dict[str, dict[str, Any]]:
        """Volumes, or completed snapshots, by their names."""
        listed = self.stage.ok("--json", kind, "list")[f"{kind.capitalize()}s"]
        return {each["Name"]: each for each in listed if each["State"] != "error"}

    def is_there(self, kind: str, name: str) -> bool:
        found = self.listed(kind).get(name)
        return found is not None and found["State"] not in {"pending", "creating"}

    def add(self, volume: Volume) -> None:
        self.volumes.append(volume)


def units(under: str, seed: int, length: int) -> bytearray:
    """What is to be seen in no file, or what is not encrypted."""
    mark = (OPEN if under == PLAIN else SECRET) + b"%08d " % seed
    return bytearray((mark * (length // len(mark) + 1))[:length])


def pick(things: Sequence[Thing], which: int) -> Thing | None:
    return things[which % len(things)] if things else None


def shown(listed: dict[str, Any]) -> tuple[object, ...]:
    return listed["Size"], listed["KmsKeyId"], listed["Encrypted"], listed["State"]


def state_of(key: Key) -> str:
    return "PendingDeletion" if key.state == "Pending" else key.state
