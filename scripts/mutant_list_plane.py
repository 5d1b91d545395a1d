"""Bugs of who owns a chunk, the engine or the data plane (`scripts/mutant_list.py`)."""

from typing import Final

from scripts.mutant import mutant

OWNERSHIP, CAPTURE, DEVICE = (f"volcrypt/volume/{n}.py" for n in ("ownership", "capture", "device"))
DISCARD, VOLUME = (f"volcrypt/volume/{n}.py" for n in ("discard", "volume"))
DATA_PLANE, ADMISSION = (f"volcrypt/volume/{n}.py" for n in ("data_plane", "admission"))
T_PLANE = "tests/volume/test_data_plane.py"
T_WAITS = "tests/volume/test_data_plane_waits.py"
T_DISCARD = "tests/volume/test_discard.py"

PLANE: Final = [
    mutant(
        "what the plane is at counts for nobody",
        OWNERSHIP,
        [T_PLANE],
        ("            if work not in self._adopted:", "            if work is None:"),
    ),
    mutant(
        "a write leaves the plane its right to read",
        OWNERSHIP,
        [T_PLANE],
        ("READ | WRITE if exclusive else WRITE))", "WRITE))"),
    ),
    mutant(
        "a read of Python's leaves the plane its right to write",
        OWNERSHIP,
        [T_PLANE],
        ("READ | WRITE if exclusive else WRITE))", "READ | WRITE if exclusive else 0))"),
    ),
    mutant(
        "a barrier lets the plane go on",
        CAPTURE,
        [T_PLANE],
        ("            self._take_writes()\n", ""),
    ),
    mutant(
        "a chunk is the plane's to write before it is marked",
        DEVICE,
        [T_PLANE],
        (" or not self._is_marked(chunk)", ""),
    ),
    mutant(
        "a captured or absent chunk is the plane's",
        DEVICE,
        [T_PLANE],
        (
            "        return self.admission.is_permitted(extent, exclusive=exclusive)\n",
            "        return True\n",
        ),
    ),
    mutant(
        "growth does not take what the plane has",
        DEVICE,
        [T_PLANE],
        ("            self._ownership.take_all()\n", "            pass\n"),
    ),
    mutant(
        "after a failed sync the plane writes on",
        DEVICE,
        [T_PLANE],
        (
            "self._ownership.refuse_writes()  # before anybody hears of it",
            "pass",
        ),
    ),
    mutant(
        "the plane is not told that a lease is needed",
        DEVICE,
        [T_WAITS],
        ("            gate.prolonged(gate.until)\n", ""),
    ),
    mutant(
        "the plane is not told that a lease goes on",
        DEVICE,
        [T_WAITS],
        ("            gate.prolonged = self._ownership.write_until\n", ""),
    ),
    mutant(
        "the plane writes a moment after the lease",
        "volcrypt/volume/lease_time.py",
        [T_WAITS],
        (
            "    return int(Fraction(boot_seconds) * 10**9)",
            "    return 1 + int(boot_seconds * 1e9)",
        ),
    ),
    mutant(
        "what hangs in the plane is not given up",
        DEVICE,
        [T_PLANE],
        ("            self._ownership.give_up()\n", "            pass\n"),
    ),
    mutant(
        "what the plane is at is given up at once",
        DEVICE,
        [T_PLANE],
        ("            await self._ownership.idle()\n", "            pass\n"),
    ),
    mutant(
        "a write keeps the loop while the medium keeps writers",
        DEVICE,
        [T_WAITS],
        ("            self._ownership is None\n            and size", "            size"),
    ),
    mutant(
        "a fence is not told to the plane",
        DEVICE,
        [T_PLANE],
        ("            self._ownership.fence()\n", "            pass\n"),
    ),
    mutant(
        "a discard waits for nobody, and keeps nothing for a snapshot",
        DISCARD,
        [T_DISCARD],
        ("await self._device.change(", "await self._device.look("),
    ),
    mutant(
        "a discard marks no chunk",
        VOLUME,
        [T_DISCARD],
        (
            "        extent = self._begin_change(offset, length)\n",
            "        extent = self._check_range(offset, length)\n",
        ),
    ),
    mutant(
        "a discard passes over chunks that are not here yet",
        DISCARD,
        [T_DISCARD],
        ("if not self._device.is_whole:", "if self._device.read_only:"),
    ),
    mutant(
        "what a snapshot may need is discarded without being fetched",
        ADMISSION,
        [T_DISCARD],
        (" and self._may_change and self._conditions.is_free:", " and self._may_change:"),
    ),
    mutant(
        "a discard goes on behind a fence",
        ADMISSION,
        [T_DISCARD],
        (
            "        if self._fenced is not None:\n            raise self._fenced\n",
            "        pass\n",
        ),
    ),
    mutant(
        "the plane writes zeros that are to be dropped",
        DATA_PLANE,
        [
            "tests/e2e/test_discard.py::test_zeros_that_are_written_become_holes_where_that_is_wanted"
        ],
        ("                drops_zeros=drops_zeros,\n", ""),
    ),
    mutant(
        "zeros that are dropped are counted as encrypted",
        VOLUME,
        [T_DISCARD],
        (
            "            if not is_zero or not self._drop(run):\n",
            "            if self._drop(run) or True:\n",
        ),
    ),
]
