"""Bugs of a migration, the engine or the device (`scripts/mutant_list.py`)."""

from typing import Final

from scripts.mutant import mutant

DEVICE, ADMISSION, CAPTURE, MIGRATION, MIGRATOR, INTENTS, OWNERSHIP = (
    f"volcrypt/volume/{name}.py"
    for name in (
        "device",
        "admission",
        "capture",
        "migration",
        "migrator",
        "write_intents",
        "ownership",
    )
)
T_MIGRATOR = "tests/volume/test_migrator.py"
T_MIGRATION = "tests/volume/test_migration.py"
T_E2E = "tests/e2e/test_migration.py"
T_INTENTS = "tests/volume/test_write_intents.py"

MIGRATING: Final = [
    mutant(
        "a write that waited goes to what was served before",
        DEVICE,
        [T_MIGRATOR],
        (
            "        await self._change(ByteRange(offset, size), lambda: self._volume.write",
            "        await self._change(ByteRange(offset, size), lambda v=self._volume: v.write",
        ),
    ),
    mutant(
        "a chunk is written to while it is copied",
        DEVICE,
        [T_MIGRATOR],
        (
            "        async with self._ranges.hold(extent, exclusive=False):\n",
            "        if extent:\n",
        ),
    ),
    mutant(
        "the plane keeps its right to write to a chunk that is copied",
        OWNERSHIP,
        [T_MIGRATOR],
        ("        self._adopt(self._plane.revoke(chunks, WRITE))\n", "        pass\n"),
    ),
    mutant(
        "an intent is synced on the loop",
        ADMISSION,
        [T_MIGRATOR],
        (
            "            and not self.cursor.writes_at_once(ByteRange(offset, size))\n",
            "            and not size\n",
        ),
    ),
    mutant(
        "a snapshot begins while the data changes its place",
        CAPTURE,
        [T_MIGRATOR],
        ("            if self.refusal is not None:\n", "            if self._closed:\n"),
    ),
    mutant(
        "the target is believed without a sync",
        MIGRATION,
        [T_MIGRATION],
        ("            self.target.flush()\n        except", "            pass\n        except"),
    ),
    mutant(
        "what is copied again may lose its intent before it is synced",
        MIGRATION,
        [T_MIGRATION],
        (
            "            with self._intents.writing(self._extent(chunks)):\n",
            "            if chunks:\n",
        ),
    ),
    mutant(
        "an intent that was abandoned is believed",
        MIGRATION,
        [T_MIGRATOR],
        ("        self._intents.void()\n        self._closed", "        self._closed"),
    ),
    mutant(
        "what was given back with its room is believed",
        MIGRATION,
        [T_E2E],
        ("            self._intents.void()\n            self.target", "            self.target"),
    ),
    mutant(
        "a process that goes on begins behind what it has to repeat",
        MIGRATION,
        [T_MIGRATION],
        (").intersection(intents.set_regions())", ").intersection(())"),
    ),
    mutant(
        "the old key stays after the switch",
        "volcrypt/daemons/migrating.py",
        [T_E2E],
        ("        before.close()\n", ""),
    ),
    mutant(
        "what has another name is served",
        "volcrypt/daemons/migrating.py",
        [T_E2E],
        ("if not os.path.samestat(named,", "if False and not os.path.samestat(named,"),
    ),
    mutant(
        "the source is lost before it was destroyed",
        "volcrypt/volume/migration_files.py",
        ["tests/volume/test_migration_files.py"],
        (
            "            os.link(names.data, names.old, follow_symlinks=False)\n",
            "            pass\n",
        ),
    ),
    mutant(
        "an intent is set and not synced",
        INTENTS,
        [T_INTENTS],
        ("and_set=missing)\n                self._storage.sync()\n", "and_set=missing)\n"),
    ),
    mutant(
        "the time of a write is that of its beginning",
        INTENTS,
        [T_INTENTS],
        (
            "                    self._ended[region] = self._tick\n",
            "                    self._ended.setdefault(region, 0)\n",
        ),
    ),
]
