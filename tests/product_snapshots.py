"""Snapshots and copies, in histories of the whole product."""

import json
from collections.abc import Collection

from tests.product_core import (
    CUSTOMER,
    DENIED,
    DONE,
    MOST,
    NOT_FOUND,
    PLAIN,
    STORES,
    TRY_AGAIN,
    UNSAID,
    USAGE,
    Snapshot,
    Volume,
    pick,
)
from tests.product_stage import Done, Trouble
from tests.product_volumes import ProductVolumes
from volcrypt.geometry import CHUNK_BYTES


class ProductSnapshots(ProductVolumes):
    def snapshot(self, which: int, several: bool, store: int, trouble: Trouble | None) -> None:
        chosen = [pick(self.volumes, which), pick(self.volumes, which + 1)]
        volumes = list(dict.fromkeys(each for each in chosen[: 1 + several] if each is not None))
        if not volumes or len(self.snapshots) + len(volumes) > MOST:
            return
        name, place = self.name("s"), STORES[store % len(STORES)]
        names = [name] if len(volumes) == 1 else [f"{name}-{each.name}" for each in volumes]
        # What a volume lacks is fetched for it, if its keys are there.
        is_lazy = any(each.is_lazy for each in volumes)
        codes = [DONE, DENIED, TRY_AGAIN] if is_lazy else [DONE]
        done = self.do(
            *("snapshot", "create", "--wait", "--name", name, "--store", place),
            *(each.name for each in volumes),
            codes=codes,
            trouble=trouble if len(codes) == 1 else None,
            is_done=lambda: all(self.is_there("snapshot", each) for each in names),
        )
        for volume in volumes:
            volume.may_be_whole = volume.may_be_whole or volume.is_lazy
        if done.code != DONE:
            return
        for each, volume in zip(names, volumes, strict=True):
            self.snapshots.append(Snapshot(each, bytes(volume.image), volume.under, place))

    def copy(self, which: int, choice: str, store: int, trouble: Trouble | None) -> None:
        source = pick(self.snapshots, which)
        if source is None or len(self.snapshots) >= MOST or choice == UNSAID:
            return
        name, place = self.name("c"), STORES[store % len(STORES)]
        codes = self.deriving(source.under, choice)
        done = self.do(
            *("snapshot", "copy", "--wait", source.name, "--name", name, "--store", place),
            *self.choice(choice),
            *self.source_given(source.under, choice),
            codes=codes,
            trouble=trouble,
            is_done=lambda: self.is_there("snapshot", name),
        )
        if done.code == DONE:
            self.snapshots.append(Snapshot(name, source.image, choice, place))

    def source_given(self, source: str, choice: str) -> list[str]:
        return [] if choice == CUSTOMER else self.given(source, source=True)

    def deriving(self, source: str, choice: str) -> Collection[int]:
        """How it ends when something is made of a snapshot."""
        if choice == PLAIN:
            return [USAGE] if source != PLAIN or self.is_by_default else [DONE]
        codes = self.making(choice)
        if self.is_usable(source):
            return codes
        return [DENIED, NOT_FOUND] if NOT_FOUND in codes else [DENIED]

    def volume_from(self, which: int, choice: str, trouble: Trouble | None) -> None:
        source = pick(self.snapshots, which)
        if source is None or len(self.volumes) >= MOST or choice == UNSAID:
            return
        name = self.name("v")
        done = self.do(
            *("volume", "create", "--snapshot-id", source.name, "--name", name),
            *("--fill-rate", "1"),
            *self.choice(choice),
            *self.source_given(source.under, choice),
            codes=self.deriving(source.under, choice),
            trouble=trouble,
            is_done=lambda: self.is_there("volume", name),
        )
        if done.code == DONE:
            is_empty = not any(source.image)
            self.add(
                Volume(
                    name,
                    bytearray(source.image),
                    choice,
                    source=source.under if source.under in self.keys else None,
                    may_be_whole=is_empty,
                    is_lazy=True,
                )
            )

    def delete_snapshot(self, which: int, trouble: Trouble | None) -> None:
        snapshot = pick(self.snapshots, which)
        if snapshot is None:
            return
        # One that was not completed may have the name too.
        identity = self.listed("snapshot")[snapshot.name]["SnapshotId"]
        self.do(
            *("snapshot", "delete", identity),
            trouble=trouble,
            is_done=lambda: snapshot.name not in self.listed("snapshot"),
        )
        self.snapshots.remove(snapshot)

    def export(self, which: int) -> None:
        snapshot = pick(self.snapshots, which)
        if snapshot is not None:
            self.export_snapshot(snapshot)

    def export_snapshot(self, snapshot: Snapshot) -> None:
        done = self.do(
            *("snapshot", "export", "--yes", snapshot.name, self.stage.out),
            *self.given(snapshot.under),
            codes=[DONE] if self.is_usable(snapshot.under) else [DENIED],
        )
        self.check_export(done, snapshot.image, snapshot.name)
        self.check_audit(snapshot.under, "snapshot", snapshot.name, done)

    def diff(self, which: int) -> None:
        """What differs is among what is said to differ."""
        first, second = pick(self.snapshots, which), pick(self.snapshots, which + 1)
        if first is None or second is None or first is second:
            return
        done = self.do(
            *("--json", "snapshot", "diff", first.name, second.name), codes=[DONE, USAGE]
        )
        if done.code == DONE:
            self.check_diff(done, first.image, second.image)

    def check_diff(self, done: Done, first: bytes, second: bytes) -> None:
        said = {
            chunk
            for each in json.loads(done.out)["ChangedRanges"]
            for chunk in range(
                each["Offset"] // CHUNK_BYTES,
                -(-(each["Offset"] + each["Length"]) // CHUNK_BYTES),
            )
        }
        both = min(len(first), len(second))
        differ = {
            at // CHUNK_BYTES
            for at in range(0, both, CHUNK_BYTES)
            if first[at : min(at + CHUNK_BYTES, both)] != second[at : min(at + CHUNK_BYTES, both)]
        }
        assert differ <= said, f"{differ - said} differ and are not said to\n{self}"
