"""Device and compiled data plane together against a bytearray: the model of `test_device_model`,
with requests of the kernel among those of Python, and captures that begin and end between batches.

Two of three requests go to the plane, which answers them or hands them on, and one to the device
directly, as if it had been handed on. What must hold is the same, whoever served it.
"""

import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from tempfile import mkdtemp

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.plane_kernel import KEY, PlaneBed, Reply, plane_bed
from tests.properties.test_device_model import (
    GROWN,
    QUICK,
    REQUESTS,
    DeviceModel,
    Patch,
    Request,
)
from tests.volume.place import SEAL, VOLUME, point
from volcrypt.crypto.data_key import DataKey
from volcrypt.geometry import ByteRange, chunk_count, chunk_range
from volcrypt.volume.capture import RunningCapture
from volcrypt.volume.change_map import ChangeMap
from volcrypt.volume.data_plane import DataPlane
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.device import Device
from volcrypt.volume.discard import Discards
from volcrypt.volume.fuse import VolumeFileSystem
from volcrypt.volume.lease_gate import LeaseGate
from volcrypt.volume.lease_time import TRUST_SECONDS, boot_seconds
from volcrypt.volume.plane.door import READ, WRITE
from volcrypt.volume.preserve import PreservedChunks
from volcrypt.volume.volume import Volume


class Fetched:
    """Chunks that come some time after they are asked for."""

    def __init__(self) -> None:
        self.readable: set[int] = set()
        self.writable: set[int] = set()

    def may_read(self, chunks: range) -> bool:
        return self.readable.issuperset(chunks)

    def may_write(self, chunks: range) -> bool:
        return self.writable.issuperset(chunks)

    async def make_readable(self, chunks: range) -> None:
        await trio.sleep(0.0005)
        self.readable.update(chunks)

    async def make_writable(self, chunks: range) -> None:
        await self.make_readable(chunks)
        await trio.sleep(0.0005)
        self.writable.update(chunks)

    async def replace(self, chunks: range, work: Callable[[int], None]) -> None:
        for chunk in set(chunks) - self.readable:
            await trio.to_thread.run_sync(work, chunk)
            self.readable.add(chunk)
            self.writable.add(chunk)


class PlaneModel(DeviceModel):
    """No power cuts: what reaches the medium is not the plane's business."""

    def __init__(self) -> None:
        super().__init__()
        # Where the page cache can be asked whether it has something.
        self.disk = Path(mkdtemp(dir="/var/tmp"))
        self.capture: RunningCapture | None = None
        self.fast = 0

    def open(self) -> None:
        self.stack = ExitStack()
        self.bed: PlaneBed = self.stack.enter_context(
            plane_bed(
                self.disk,
                size_bytes=self.size_bytes,
                encrypted=self.key is not None,
                takes_discards=True,
                drops_zeros=self.drops_zeros,
            )
        )
        if self.key is not None:
            self.key = DataKey(bytearray(KEY))
        self.changes = ChangeMap.open(
            self.memory / "live",
            self.memory / "clean",
            volume_id=VOLUME,
            size_bytes=self.size_bytes,
            seal=SEAL,
            data_path=self.bed.data,
        )
        self.data = self.stack.enter_context(DataFile.open(self.bed.data, self.size_bytes))
        self.volume = Volume(
            self.data,
            size_bytes=self.size_bytes,
            data_key=self.key,
            changes=self.changes,
            drops_zeros=self.drops_zeros,
        )
        self.device = Device(
            self.volume,
            open_keeper=lambda: PreservedChunks(self.data, self.disk),
            changes=self.changes,
        )
        self.device.use_plane(self.bed.plane, is_marked=self.changes.is_marked, budget=None)
        self.replies: dict[int, Reply] = {}
        self.waiting: dict[int, trio.Event] = {}
        self.turn = 0
        self.gate: LeaseGate | None = None

    def end_process(self) -> None:
        self.fast += self.bed.plane.counts.fast
        self.capture = None
        self.volume.close()
        self.changes.close()
        self.stack.close()

    def set_cached(self, is_cached: bool) -> None:
        if not is_cached:
            self.data.sync()
            os.posix_fadvise(self.data.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    # ------------------------------------------------------------ requests

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        plane = DataPlane(
            self.bed.plane,
            self.device,
            VolumeFileSystem(self.device),
            Discards(self.device),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(plane.run)
            nursery.start_soon(self.receive)
            nursery.start_soon(self.hold_lease_again)
            yield
            nursery.cancel_scope.cancel()
        self.device.reap()

    async def receive(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self.bed.kernel)
            reply = self.bed.reply()
            self.replies[reply.unique] = reply
            self.waiting.pop(reply.unique).set()

    async def ask(self, unique: int) -> Reply:
        self.waiting[unique] = trio.Event()
        await self.waiting[unique].wait()
        reply = self.replies.pop(unique)
        assert not reply.error
        return reply

    def is_pythons(self) -> bool:
        self.turn += 1
        return self.turn % 3 == 0

    async def read(self, extent: ByteRange) -> bytes:
        if self.is_pythons():
            return await super().read(extent)
        return (await self.ask(self.bed.send_read(extent.offset, extent.length))).body

    async def write(self, patch: Patch) -> None:
        if self.is_pythons():
            await super().write(patch)
        else:
            reply = await self.ask(self.bed.send_write(patch.extent.offset, patch.data))
            assert int.from_bytes(reply.body[:4], "little") == patch.extent.length

    async def discard(self, extent: ByteRange) -> None:
        if self.is_pythons():
            await super().discard(extent)
        else:
            await self.ask(self.bed.send_discard(extent.offset, extent.length))

    @rule(requests=REQUESTS)
    def whole_units(self, requests: list[Request]) -> None:
        """As applications with direct I/O: nearly all of it is the plane's."""
        unit = 4096
        rounded = [
            Request(
                r.kind, r.seam // unit * unit, r.shift // unit * unit, -(-r.length // unit) * unit
            )
            for r in requests
        ]
        for _ in range(2):
            self.batch([r for r in rounded if self.extent_is_whole(r)], True)

    def extent_is_whole(self, request: Request) -> bool:
        extent = request.extent(self.size_bytes)
        return not (extent.offset | extent.length) % 4096

    @precondition(lambda self: self.size_bytes < GROWN[-1])
    @rule(step=st.integers(0, len(GROWN) - 1), requests=REQUESTS)
    def grow(self, step: int, requests: list[Request]) -> None:
        larger = [size for size in GROWN if size > self.size_bytes]
        os.truncate(self.bed.data, larger[step % len(larger)])
        super().grow(step, requests)

    # ------------------------------------------------------------ the lease

    @rule(requests=REQUESTS, left_seconds=st.sampled_from([0.0, 0.003]), cached=st.booleans())
    def lease_runs_out(self, requests: list[Request], left_seconds: float, cached: bool) -> None:
        """At once or in the middle of the requests. Some time later nothing is written until it
        is held again; then all are done."""
        self.gate = LeaseGate()
        self.device.use_lease(self.gate)
        self.gate.held(boot_seconds() - TRUST_SECONDS + left_seconds)
        self.batch(requests, cached)
        self.gate = self.device.admission.lease = None
        self.bed.plane.write_until(2**63 - 1)

    async def hold_lease_again(self) -> None:
        if self.gate is None:
            return
        while self.gate.is_open:  # noqa: ASYNC110 nobody tells: that is the point
            await trio.sleep(0.001)
        chunks = range(chunk_count(self.size_bytes))
        granted = [self.bed.plane.rights(chunk) for chunk in chunks]
        begun = self.bed.plane.revoke(chunks, WRITE)
        for chunk in chunks:
            self.bed.plane.grant(chunk, granted[chunk])
        while not all(map(self.bed.plane.is_over, begun)):  # noqa: ASYNC110 nobody tells
            await trio.sleep(0.001)
        await self.device._ranges.outlast_writers()
        found = self.bed.data.read_bytes()
        await trio.sleep(0.001)
        assert self.bed.data.read_bytes() == found
        self.gate.held(boot_seconds())

    # ------------------------------------------------------------ what is absent

    @rule(requests=REQUESTS, cached=st.booleans())
    def chunks_are_fetched(self, requests: list[Request], cached: bool) -> None:
        """As of a lazy volume: what is absent is fetched by who wants it, and is never granted."""
        absent = Fetched()
        self.bed.plane.revoke_all(READ | WRITE)
        self.device.admission.absent = absent
        self.batch(requests, cached)
        for chunk in range(chunk_count(self.size_bytes)):
            rights = self.bed.plane.rights(chunk)
            assert not rights & READ or chunk in absent.readable
            assert not rights & WRITE or chunk in absent.writable
        self.device.admission.absent = None

    # ------------------------------------------------------------ captures

    @precondition(lambda self: self.capture is None)
    @rule()
    def begin_capture(self) -> None:
        self.capture = trio.run(self.device.captures.begin)
        self.captured = bytes(self.model)
        self.released: set[int] = set()
        trio.run(self.device.captures.settle, self.capture)
        for chunk in range(chunk_count(self.size_bytes)):
            assert not self.bed.plane.rights(chunk) & 2

    @precondition(lambda self: self.capture is not None)
    @rule(chunk=st.integers(0, 3))
    def release(self, chunk: int) -> None:
        assert self.capture is not None
        if chunk >= chunk_count(len(self.captured)):
            return
        self.check_captured(chunk)
        self.released.add(chunk)
        self.device.captures.release(self.capture, range(chunk, chunk + 1))

    def check_captured(self, chunk: int) -> None:
        """A chunk that the capture still needs, and that nobody wrote to, is as it was then."""
        assert self.capture is not None
        if chunk >= chunk_count(len(self.captured)) or chunk in self.released:
            return
        extent = chunk_range(chunk, len(self.captured))
        if self.device.captures._conditions.is_captured(chunk):
            found = bytearray(extent.length)
            self.volume.read_into(extent.offset, found)
            assert found == self.captured[extent.offset : extent.end]

    @precondition(lambda self: self.capture is not None)
    @rule(commits=st.booleans())
    def end_capture(self, commits: bool) -> None:
        assert self.capture is not None
        for chunk in range(chunk_count(len(self.captured))):
            self.check_captured(chunk)
        if commits:
            trio.run(self.device.captures.commit, self.capture, point(1))
            self.committed = self.captured
        else:
            trio.run(self.device.captures.abort, self.capture)
        self.capture = None

    def lose_power(self, seed: int) -> None:
        """Not here."""

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.disk)


PlaneModel.TestCase.settings = settings(QUICK, max_examples=20, stateful_step_count=20)
TestPlaneModel = PlaneModel.TestCase


class LongPlaneModel(PlaneModel):
    """The same for long."""


LongPlaneModel.TestCase.settings = settings(QUICK, max_examples=1500, stateful_step_count=40)
TestPlaneModelForLong = pytest.mark.soak(LongPlaneModel.TestCase)
