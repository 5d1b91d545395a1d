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
            (
                "        self.admission.check_serving()  # plaintext is not handed out behind a fence\n"
            ),
            "",
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
]
