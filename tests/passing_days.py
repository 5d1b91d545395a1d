"""Days that go by for the KMS of a home, whatever the clock of this machine says."""

from pathlib import Path

from volcrypt.kms.clock import host_time
from volcrypt.kms.home import open_kms
from volcrypt.kms.model import DAY_SECONDS
from volcrypt.operations.home_directory import runtime_directory
from volcrypt.settings import DEFAULT_ACCOUNT, DEFAULT_REGION, runtime_root


def let_days_pass(home: Path, days: int) -> None:
    """A day at a time, with the upkeep of each, as observed time takes it; nobody else in this
    process has the home open. Each call begins today."""
    now = host_time()
    with open_kms(
        home / "kms",
        runtime_directory(home, runtime_root()),
        account=DEFAULT_ACCOUNT,
        region=DEFAULT_REGION,
        clock=lambda: now,
    ) as service:
        service.maintain()
        for _ in range(days):
            now += DAY_SECONDS
            service.maintain()
