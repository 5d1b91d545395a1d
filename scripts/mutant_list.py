"""The bugs that `scripts/mutants` plants, and the quick tests that must notice them."""

from typing import Final

from scripts.mutant import mutant
from scripts.mutant_list_cli import COMMAND_LINE
from scripts.mutant_list_compiled import COMPILED
from scripts.mutant_list_durable import DURABLE_FILES
from scripts.mutant_list_hostile import HOSTILE
from scripts.mutant_list_import import IMPORTING
from scripts.mutant_list_kms import KEY_MANAGEMENT
from scripts.mutant_list_migration import MIGRATING
from scripts.mutant_list_operations import OPERATIONS
from scripts.mutant_list_plane import PLANE
from scripts.mutant_list_product import PRODUCT
from scripts.mutant_list_records import RECORDS
from scripts.mutant_list_serving import SERVING_BESIDE
from scripts.mutant_list_snapshot import SNAPSHOTS
from scripts.mutant_list_store import BUCKETS, STORE

DATA, VOLUME, DEVICE = (f"volcrypt/volume/{n}.py" for n in ("datafile", "volume", "device"))
CHANGES, LIVE, LOCK = (f"volcrypt/volume/{n}.py" for n in ("change_map", "live_map", "range_lock"))
CONDITIONS, CAPTURE, PRESERVE = (
    f"volcrypt/volume/{n}.py" for n in ("chunk_conditions", "capture", "preserve")
)
FUSE, DAEMON = "volcrypt/volume/fuse.py", "volcrypt/daemons/volume_service.py"

T_DATA, T_VOLUME, T_DEVICE, T_CHANGES, T_LOCK = (
    f"tests/volume/test_{name}.py"
    for name in ("datafile", "volume", "device", "change_map", "range_lock")
)
T_CAPTURE = "tests/volume/test_capture.py"
T_DEVICE_MODEL, T_CAPTURE_MODEL = (
    f"tests/properties/test_{name}_model.py" for name in ("device", "capture")
)
T_ERRORS, T_STACK, T_KILLS = (
    f"tests/crash/test_{name}.py"
    for name in ("storage_errors", "stack_power_cut", "change_map_kill")
)
T_MOUNT, T_OVERLAP, T_EXERCISER = (
    f"tests/e2e/test_{name}.py" for name in ("mount", "overlap", "exerciser")
)


MARK: Final = """        if extent.length and self._changes is not None:
            self._changes.mark(chunks_of(extent))
"""

UNIT_HOLES: Final = """        for at in range(0, view.nbytes, UNIT_BYTES):
            unit = view[at : at + UNIT_BYTES]
            if any(unit) and not isinstance(lane.cipher, NoCipher):
                lane.cipher.decrypt_units((offset + at) // UNIT_BYTES, unit, unit)
"""

SYNCING: Final = [
    mutant(
        "a sync is dropped",
        DATA,
        [f"{T_STACK}::test_a_sync_above_is_a_sync_below"],
        ("os.fdatasync(self._descriptor)", "pass"),
    ),
    mutant(
        "fsync of the mount is dropped",
        FUSE,
        [f"{T_STACK}::test_synced_files_survive"],
        (
            "with self.stats.measuring(SYNC):\n                await self._device.flush()",
            "pass",
        ),
    ),
    mutant(
        "the last flush is dropped",
        DEVICE,
        [f"{T_STACK}::test_what_was_written_before_an_unmount_is_safe"],
        (
            "_ownership.close()\n        if not self.read_only:\n            await self._flush()",
            "_ownership.close()",
        ),
    ),
    mutant(
        "a sync error is forgotten",
        DATA,
        [f"{T_ERRORS}::test_a_failed_sync_is_never_forgotten"],
        ("self._failed = True", "self._failed = False"),
    ),
    mutant(
        "writes go on after a failed sync",
        DATA,
        [f"{T_ERRORS}::test_a_failed_sync_is_never_forgotten"],
        ('reading only")\n        self._check_not_failed()', 'reading only")'),
    ),
    mutant(
        "a sync error is swallowed by the mount",
        FUSE,
        [f"{T_ERRORS}::test_a_failed_sync_is_never_forgotten"],
        ("raise OSError(errno.EIO, str(error)) from error", "return"),
    ),
    mutant(
        "a sync error leaves the map",
        VOLUME,
        [f"{T_ERRORS}::test_a_failed_sync_is_never_forgotten", T_VOLUME],
        ("self._changes.distrust()", "pass"),
    ),
    mutant(
        "syncs overtake each other",
        DATA,
        [T_DATA],
        ("with self._sync_lock:", "if self._sync_lock:"),
    ),
    mutant(
        "the kernel's pages are believed at opening",
        DATA,
        [T_DATA],
        (
            "                _forget_pages(descriptor)\n        except",
            "                pass\n        except",
        ),
    ),
]

WRITING: Final = [
    mutant(
        "a short write is taken for a whole one",
        DATA,
        [T_DATA],
        (
            "count = os.pwrite(self._descriptor, view[:room], offset)\n                if count ==",
            "count = os.pwrite(self._descriptor, view[:room], offset)\n                if count <=",
        ),
    ),
    mutant(
        "a short read is taken for a whole one",
        DATA,
        [T_DATA],
        (
            "if count == view.nbytes:\n                return\n            if",
            "if count or not view.nbytes:\n                return\n            if",
        ),
    ),
    mutant(
        "a read that would block is taken for a whole one",
        DATA,
        [T_DATA],
        ("os.RWF_NOWAIT) == view.nbytes", "os.RWF_NOWAIT) > 0"),
    ),
    mutant(
        "the wrong unit is merged with",
        VOLUME,
        [f"{T_VOLUME}::test_reads_back_what_was_written_and_nothing_else_changed"],
        ("self._read_units(lane, unit, buffer[", "self._read_units(lane, units.offset, buffer["),
    ),
    mutant(
        "the last unit is not merged with",
        VOLUME,
        [f"{T_VOLUME}::test_reads_back_what_was_written_and_nothing_else_changed"],
        ("if tail < extent.end and tail != head:", "if False:"),
    ),
    mutant(
        "a piece of a long write has another's tweak",
        VOLUME,
        [T_VOLUME],
        (
            "lane.cipher.encrypt_units(units.offset //",
            "lane.cipher.encrypt_units(extent.offset //",
        ),
    ),
    mutant(
        "a hole is a unit",
        VOLUME,
        [f"{T_VOLUME}::test_hole_is_a_sector"],
        (
            "        lane.cipher.decrypt_sparse_units(offset // UNIT_BYTES, view, view)\n",
            UNIT_HOLES,
        ),
    ),
    mutant(
        "writes go beyond the end",
        VOLUME,
        [T_VOLUME],
        ("if offset < 0 or offset + length > self.size_bytes:", "if offset < 0:"),
    ),
]

LOCKING: Final = [
    mutant(
        "ranges are not locked",
        LOCK,
        [f"{T_OVERLAP}::test_no_sector_is_a_mixture_and_no_neighbour_changes", T_DEVICE_MODEL],
        ("return (exclusive or self.exclusive) and self.extent.overlaps(extent)", "return False"),
    ),
    mutant(
        "readers do not wait for writers",
        LOCK,
        [T_LOCK],
        ("return (exclusive or self.exclusive) and", "return (exclusive and self.exclusive) and"),
    ),
    mutant(
        "parts of units are not locked",
        DEVICE,
        [T_DEVICE_MODEL],
        ("self._ranges.hold(align_to_units(extent)", "self._ranges.hold(extent"),
    ),
    mutant(
        "what runs inline asks nobody",
        "volcrypt/volume/admission.py",
        [f"{T_OVERLAP}::test_no_sector_is_a_mixture_and_no_neighbour_changes", T_DEVICE],
        (
            "        extent = ByteRange(offset, size)\n        return self.is_permitted(",
            "        extent = ByteRange(offset, size)\n        return True or self.is_permitted(",
        ),
    ),
]

COUNTING: Final = [
    mutant(
        "a bit is set after the write",
        VOLUME,
        [f"{T_VOLUME}::test_all_chunks_are_marked_before_the_first_byte"],
        (MARK, ""),
        (
            "        finally:\n            self._return_lane(lane)\n\n    def _drop",
            f"        finally:\n            self._return_lane(lane)\n{MARK}\n    def _drop",
        ),
    ),
    mutant(
        "a bit is not set",
        VOLUME,
        [f"{T_VOLUME}::test_all_chunks_are_marked_before_the_first_byte"],
        (MARK, ""),
    ),
    mutant(
        "only the first bit is set",
        VOLUME,
        [f"{T_VOLUME}::test_all_chunks_are_marked_before_the_first_byte"],
        ("mark(chunks_of(extent))", "mark(chunks_of(extent)[:1])"),
    ),
    mutant(
        "a capture does not swap the generations",
        CHANGES,
        [T_CHANGES],
        ("self._live.state ^ CURRENT", "self._live.state"),
    ),
    mutant(
        "an aborted capture forgets its bits",
        CHANGES,
        [T_CHANGES],
        ("            self._live.merge_older()\n", ""),
    ),
    mutant(
        "a killed capture forgets its bits",
        CHANGES,
        [T_CHANGES],
        ("                live.merge_older()\n", ""),
    ),
    mutant(
        "a snapshot is the parent before its data is synced",
        CHANGES,
        [T_CHANGES],
        ("        if not self._sync_data():\n", "        if False:\n"),
    ),
    mutant(
        "the clean copy stays while the volume is open",
        CHANGES,
        [T_CHANGES],
        ("remove_durably(clean_path)", "pass"),
    ),
    mutant(
        "the removal of the clean copy is not durable",
        "volcrypt/durable.py",
        [T_CHANGES],
        (
            "        _unlink(path.name, directory)\n        os.fsync(directory)",
            "        _unlink(path.name, directory)",
        ),
    ),
    mutant(
        "distrust does not last",
        CHANGES,
        [T_CHANGES],
        ("self._is_distrusted = True", "pass"),
    ),
    mutant(
        "a clean copy is believed though the file was written since",
        "volcrypt/volume/clean_map.py",
        [T_CHANGES],
        ("        or body.data_mtime_ns != data.st_mtime_ns\n", ""),
    ),
    mutant(
        "a map on a disk is believed",
        LIVE,
        [T_CHANGES],
        ("or not _is_in_memory(descriptor)", ""),
    ),
    mutant(
        "a map of another boot is believed",
        LIVE,
        [T_CHANGES],
        ("or header != _resized(identity, found_bytes)", ""),
    ),
]

CAPTURING: Final = [
    mutant(
        "a captured chunk is not kept before it is written",
        CONDITIONS,
        [T_CAPTURE],
        ("return self.is_free or (", "return True or ("),
    ),
    mutant(
        "writes under way at the barrier are in no capture",
        CHANGES,
        [T_CAPTURE, T_CAPTURE_MODEL],
        (
            "                self.mark(chunks)\n            self._live",
            "                pass\n            self._live",
        ),
    ),
    mutant(
        "a capture is shown while writes are under way",
        CAPTURE,
        [T_CAPTURE],
        ("await self._ranges.outlast_writers()\n        self.check", "self.check"),
    ),
    mutant(
        "a chunk is kept beside a write to it",
        CAPTURE,
        [T_CAPTURE],
        ("async with self._ranges.hold(extent, exclusive=False):", "if extent:"),
    ),
    mutant(
        "writers do not wait for a set",
        CAPTURE,
        [T_CAPTURE],
        ("if self._conditions.is_held:", "if False:"),
    ),
    mutant(
        "a reader does not look whether a chunk was kept",
        PRESERVE,
        ["tests/volume/test_preserve.py"],
        ("        while mark != _NO_MARK:", "        while not mark:"),
    ),
]

SERVING: Final = [
    mutant(
        "the kernel caches the plaintext",
        FUSE,
        [f"{T_ERRORS}::test_the_kernel_keeps_no_plaintext_for_a_dead_process"],
        ("direct_io=True", "direct_io=False"),
    ),
    mutant(
        "the kernel is told that syncs do not exist",
        FUSE,
        [f"{T_ERRORS}::test_a_failed_sync_is_never_forgotten"],
        ("frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.EINTR})", "frozenset()"),
    ),
    mutant(
        "the file can be truncated",
        FUSE,
        [f"{T_EXERCISER}::test_on_the_file_of_a_mount"],
        ("if resized or fields", "if fields"),
    ),
    mutant(
        "the file keeps its size when it grows",
        FUSE,
        ["tests/e2e/test_grow.py::test_mounted"],
        ("pyfuse3.invalidate_inode(_VOLUME_INODE, attr_only=True)", "pass"),
    ),
    mutant(
        "the map is saved as clean before the data is",
        CHANGES,
        [T_CHANGES],
        ("if self._parent is not None and self._sync_data():", "if self._parent is not None:"),
    ),
    mutant(
        "two processes own a volume",
        "volcrypt/volume/owner.py",
        ["tests/volume/test_owner.py"],
        ("LOCK_EX | fcntl.LOCK_NB", "LOCK_SH | fcntl.LOCK_NB"),
    ),
]

MUTANTS: Final = [
    *SYNCING,
    *WRITING,
    *LOCKING,
    *COUNTING,
    *CAPTURING,
    *SERVING,
    *RECORDS,
    *SERVING_BESIDE,
    *PLANE,
    *COMPILED,
    *MIGRATING,
    *STORE,
    *BUCKETS,
    *SNAPSHOTS,
    *IMPORTING,
    *PRODUCT,
    *DURABLE_FILES,
    *KEY_MANAGEMENT,
    *HOSTILE,
    *OPERATIONS,
    *COMMAND_LINE,
]
