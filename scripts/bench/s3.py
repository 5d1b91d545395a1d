"""Chunks into and out of a bucket with 1, 4 and 16 transfers in flight, at a given latency.

    python -m scripts.bench.s3 [--chunks N] [--latency-ms MS]

A real S3 server runs on this machine, and takes a part of its cores; a proxy in front of it lets
every request wait. What is compared is one run's own figures with each other.
"""

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import trio

from scripts.bench._lib import print_json, print_table
from tests.fakes.chunks import MemoryChunks
from tests.fakes.snapshots import Host, create_store
from tests.faulty_proxy import FaultyProxy, stalled
from tests.s3_server import BUCKET, S3Server
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.snapshot.plan import plan_store
from volcrypt.snapshot.transfer import chunk_table, restore_chunks, store_chunks

IN_FLIGHT = (1, 4, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--chunks", type=int, default=256)
    parser.add_argument("--latency-ms", type=float, default=20)
    options = parser.parse_args()
    rows = []
    with (
        tempfile.TemporaryDirectory() as directory,
        S3Server(Path(directory) / "server") as server,
        FaultyProxy(server.port) as proxy,
    ):
        server.make_bucket(BUCKET)
        server.objects("warm").put_if_absent("up", b"")
        for latency_ms in (0, options.latency_ms):
            proxy.fault = stalled(latency_ms / 1000) if latency_ms else None
            endpoint = proxy.endpoint if latency_ms else server.endpoint
            for in_flight in IN_FLIGHT:
                place = f"{latency_ms}-{in_flight}"
                store_rate, restore_rate = measure(
                    Host(create_store(server.objects(place, endpoint=endpoint))),
                    options.chunks,
                    in_flight,
                )
                rows.append((latency_ms, in_flight, store_rate, restore_rate))
    print_table(
        ["added latency", "in flight", "store MB/s", "restore MB/s"],
        [[f"{ms:g} ms", str(count), f"{put:.0f}", f"{get:.0f}"] for ms, count, put, get in rows],
    )
    print_json(
        "s3",
        chunks=options.chunks,
        rates=[
            {"latency_ms": ms, "in_flight": count, "store_mb_s": put, "restore_mb_s": get}
            for ms, count, put, get in rows
        ],
    )


def measure(host: Host, chunks: int, in_flight: int) -> tuple[float, float]:
    """MB/s into the bucket, and out of it."""
    volume = MemoryChunks(chunks * CHUNK_BYTES)
    volume.chunks = {index: os.urandom(CHUNK_BYTES) for index in range(chunks)}
    pin = host.pin(1, volume.size_bytes)
    pin.hold()
    plan = plan_store(
        size_bytes=volume.size_bytes,
        parent=None,
        changed=None,
        candidates=volume.candidate_chunks(),
    )
    limiter = trio.CapacityLimiter(in_flight)
    started = time.monotonic()
    stored = trio.run(partial(store_chunks, volume, pin, plan, limiter=limiter))
    store_seconds = time.monotonic() - started
    manifest = host.commit(host.draft(1, volume.size_bytes, stored), pin)
    sink = MemoryChunks(volume.size_bytes)
    limiter = trio.CapacityLimiter(in_flight)
    started = time.monotonic()
    table = chunk_table(host.store, manifest)
    trio.run(partial(restore_chunks, table, sink, limiter=limiter))
    restore_seconds = time.monotonic() - started
    assert sink.chunks == volume.chunks
    moved = volume.size_bytes / 10**6
    return moved / store_seconds, moved / restore_seconds


if __name__ == "__main__":
    main()
