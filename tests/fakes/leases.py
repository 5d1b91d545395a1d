"""Hosts that hold leases."""

from tests.fakes.snapshots import NOW, OTHER_SIGNER, SIGNER, VOLUME_ID
from volcrypt.snapshot.lease import Host, VolumeLease
from volcrypt.snapshot.signer import Signer
from volcrypt.snapshot.store import SnapshotStore

ALPHA = Host(home_id="home-a", machine_id="machine-a", host_name="alpha")
BETA = Host(home_id="home-b", machine_id="machine-b", host_name="beta")


def lease_of(store: SnapshotStore, host: Host = ALPHA) -> VolumeLease:
    """The lease of one volume, as a host sees it."""
    signer: Signer = SIGNER if host.home_id == ALPHA.home_id else OTHER_SIGNER
    return VolumeLease(
        store, VOLUME_ID, label="orders", host=host, signer=signer, clock=lambda: NOW
    )
