"""Where the time of a request goes: the parts of it, each by itself, in one process."""

import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.bench.kms_servers import SECRET
from volcrypt.kms.home import open_kms
from volcrypt.kms.messages.base import Request
from volcrypt.kms.messages.data import DecryptRequest, GenerateDataKeyRequest
from volcrypt.kms.messages.keys import CreateKeyRequest
from volcrypt.kms.model import Caller, root_arn
from volcrypt.kms.service import Call, KmsService
from volcrypt.operations.home_directory import init_home, runtime_directory
from volcrypt.settings import DEFAULT_ACCOUNT, DEFAULT_REGION, runtime_root
from volcrypt.wire.claim import HttpRequest, check_claim, read_claim
from volcrypt.wire.signature import check_signature, derive_signing_key

BATCH = 16
ROUNDS = 200


class Stopwatch:
    """Adds up the time in a function that it replaces."""

    def __init__(self, owner: Any, name: str) -> None:
        self.seconds = 0.0
        self._function: Callable[..., Any] = getattr(owner, name)
        setattr(owner, name, self._timed)

    def _timed(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return self._function(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - start


def signature_us(request: HttpRequest, now: float) -> float:
    """Verifying one signature with a signing key at hand, microseconds."""
    claim = read_claim(request)
    key = derive_signing_key(
        SECRET.encode(), date=claim.date, region=claim.region, service=claim.service
    )
    count = 5000
    start = time.perf_counter()
    for _ in range(count):
        claim = read_claim(request)
        check_claim(claim, service="kms", now=now)
        check_signature(request, claim, key)
    return (time.perf_counter() - start) / count * 1e6


def engine_us(directory: Path) -> dict[str, dict[str, float]]:
    """Microseconds a request, by operation and batch: HSM, syncs of audit log and head,
    and all the rest (policy, state, records)."""
    home = directory / "parts"
    init_home(home, runtime_root(), account=DEFAULT_ACCOUNT, region=DEFAULT_REGION, pin=None)
    runtime = runtime_directory(home, runtime_root())
    caller = Caller(arn=root_arn(DEFAULT_ACCOUNT), account=DEFAULT_ACCOUNT)
    results: dict[str, dict[str, float]] = {}
    with open_kms(home / "kms", runtime, account=DEFAULT_ACCOUNT, region=DEFAULT_REGION) as service:
        key_id = service.perform(caller, CreateKeyRequest()).key_metadata.key_id
        generate = GenerateDataKeyRequest(key_id=key_id, number_of_bytes=32)
        blob = service.perform(caller, generate).ciphertext_blob
        requests: dict[str, Request[Any]] = {
            "GenerateDataKey": generate,
            "Decrypt": DecryptRequest(ciphertext_blob=blob),
        }
        keystore = service._keystore  # noqa: SLF001 its parts are what is measured
        hsm = [Stopwatch(keystore, name) for name in ("random", "encrypt", "decrypt", "mac")]
        sync = [Stopwatch(os, "fdatasync")]
        for name, request in requests.items():
            for size in (1, BATCH):
                calls = [Call(service=service, caller=caller, request=request)] * size
                rounds = [_round(service, calls, hsm, sync) for _ in range(ROUNDS)]
                # Each part's median: a disk that somebody else keeps busy is not what is measured.
                parts = [statistics.median(part) for part in zip(*rounds, strict=True)]
                names = ("hsm", "disk", "decision", "total")
                results[f"{name}, batch of {size}"] = dict(zip(names, parts, strict=True))
    shutil.rmtree(runtime, ignore_errors=True)
    return results


def _round(
    service: KmsService, calls: list[Call], hsm: list[Stopwatch], sync: list[Stopwatch]
) -> tuple[float, float, float, float]:
    """HSM, syncs, all the rest, and the sum; microseconds a request."""
    for watch in (*hsm, *sync):
        watch.seconds = 0.0
    start = time.perf_counter()
    service.perform_all(calls)
    scale = 1e6 / len(calls)
    total = (time.perf_counter() - start) * scale
    in_hsm = sum(watch.seconds for watch in hsm) * scale
    in_sync = sum(watch.seconds for watch in sync) * scale
    return in_hsm, in_sync, total - in_hsm - in_sync, total
