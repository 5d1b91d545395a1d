"""Bugs in serving a volume: fences, leases, chunks that are fetched, and who waits for whom."""

from typing import Final

from scripts.mutant import mutant

SERVING_BESIDE: Final = [
    mutant(
        "a fetch does not wait for the lease",
        "volcrypt/volume/chunk_fetcher.py",
        ["tests/volume/test_lazy.py"],
        (
            "            await self._before_write()\n            # Not given",
            "            # Not given",
        ),
    ),
    mutant(
        "what replaces an absent chunk does not wait for the lease",
        "volcrypt/volume/chunk_fetcher.py",
        ["tests/volume/test_lazy.py"],
        (
            (
                "        await self._before_write()\n"
                "        await trio.to_thread.run_sync(work, chunk)"
            ),
            "        await trio.to_thread.run_sync(work, chunk)",
        ),
    ),
    mutant(
        "a hole that is touched first is fetched",
        "volcrypt/volume/chunk_fetcher.py",
        ["tests/volume/test_lazy.py"],
        ("        if self.has(chunk):\n            return\n        extent", "        extent"),
    ),
    mutant(
        "plaintext is handed out behind a fence",
        "volcrypt/volume/device.py",
        ["tests/volume/test_device.py"],
        (
            "        self.admission.check_serving()  # plaintext is not handed out behind a",
            "        pass  #",
        ),
    ),
    mutant(
        "who settles a volume passes its writers",
        "volcrypt/volume/device.py",
        ["tests/volume/test_device.py"],
        (
            (
                "        async with self._hold_everything():\n"
                "            pass\n"
                "        await self.settle()"
            ),
            "        await self.settle()",
        ),
    ),
    mutant(
        "a volume grows beside its writers",
        "volcrypt/volume/device.py",
        ["tests/volume/test_device.py"],
        (
            (
                "        async with self._changing, self._hold_everything():\n"
                "            self.admission.check_open()"
            ),
            "        async with self._changing:\n            self.admission.check_open()",
        ),
    ),
    mutant(
        "plaintext of a migration stays in memory",
        "volcrypt/volume/migration.py",
        ["tests/volume/test_migration.py"],
        (
            (
                "        for buffer in (self._buffer, self._compared):\n"
                "            buffer[:] = _ZEROS"
            ),
            "        pass",
        ),
    ),
    mutant(
        "new intents are believed before they are durable",
        "volcrypt/volume/write_intents.py",
        ["tests/volume/test_write_intents.py"],
        (
            (
                "        # What is believed is the header, and it comes last.\n"
                "        storage.sync()\n"
            ),
            "",
        ),
    ),
    mutant(
        "a chunk is marked as kept before it is",
        "volcrypt/volume/preserve.py",
        ["tests/volume/test_preserve.py"],
        (
            (
                "            mark = _mark_of(view)\n"
                "            if not is_zero(view):\n"
                "                self._write(extent.offset, view)\n"
                "            write_fully(self._descriptors[0], mark, chunk * MARK_BYTES)"
            ),
            (
                "            mark = _mark_of(view)\n"
                "            write_fully(self._descriptors[0], mark, chunk * MARK_BYTES)\n"
                "            if not is_zero(view):\n"
                "                self._write(extent.offset, view)"
            ),
        ),
    ),
    mutant(
        "a record that was changed is forgotten",
        "volcrypt/operations/records.py",
        ["tests/operations/test_records.py"],
        (
            "        expect[KIND, record.volume_id] = record.counter\n    home",
            "        pass\n    home",
        ),
    ),
    mutant(
        "a record lies ready after the register names it",
        "volcrypt/operations/records.py",
        ["tests/operations/test_records.py"],
        (
            "        home.volumes.stage_record(record.volume_id, data)\n        staged[",
            "        staged[",
        ),
        (
            "        home.volumes.promote_record(volume_id, data)",
            (
                "        home.volumes.stage_record(volume_id, data)\n"
                "        home.volumes.promote_record(volume_id, data)"
            ),
        ),
    ),
    mutant(
        "a newer copy of a record is passed over",
        "volcrypt/operations/record_copies.py",
        ["tests/operations/test_record_copies.py"],
        (
            (
                "        raise _changed_elsewhere(record, copy, self._place.location)\n"
                "\n"
                "    def write"
            ),
            "        return False\n\n    def write",
        ),
    ),
    mutant(
        "a newer copy of a record under another key is passed over",
        "volcrypt/operations/record_copies.py",
        ["tests/operations/test_record_copies.py"],
        (
            "                _check_claim(data, record, what, self._place.location)\n",
            "                pass\n",
        ),
    ),
    mutant(
        "what was written before a fence comes later",
        "volcrypt/daemons/fencing.py",
        ["tests/daemons/test_fencing.py"],
        ("                await self._device.settle()\n", "                pass\n"),
    ),
    mutant(
        "fetches go on behind a fence",
        "volcrypt/daemons/fencing.py",
        ["tests/daemons/test_fencing.py"],
        (
            "                    nursery.start_soon(self._stop_fetching, note.error())",
            "                    pass",
        ),
    ),
    mutant(
        "any check that holds prolongs a lease",
        "volcrypt/daemons/watcher.py",
        ["tests/daemons/test_watcher.py"],
        (
            "answer.check == LEASE_CHECK and self._gate is not None:",
            "self._gate is not None:",
        ),
    ),
    mutant(
        "the secret of an access key stays in memory",
        "volcrypt/wire/credentials.py",
        ["tests/wire/test_credentials.py"],
        ("            secret[:] = bytes(len(secret))\n", "            pass\n"),
    ),
    mutant(
        "plain HTTP is served to others",
        "volcrypt/wire/listener.py",
        ["tests/wire/test_listener.py"],
        (
            ("    if tls is None and not all(_is_loopback(str(entry[4][0])) for entry in found):"),
            "    if False:",
        ),
    ),
    mutant(
        "plain HTTP is served to others by a passed socket",
        "volcrypt/wire/listener.py",
        ["tests/wire/test_listener.py"],
        ("        if tls is None and not _is_loopback(host):\n", "        if False:\n"),
    ),
    mutant(
        "others reach a socket of the owner",
        "volcrypt/wire/listener.py",
        ["tests/wire/test_listener.py"],
        ("    old = os.umask(0o777 & ~mode)", "    old = os.umask(0)"),
    ),
]
