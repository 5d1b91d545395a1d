"""Telling systemd what a service is doing: the protocol of sd_notify(3)."""

import os
import socket


def notify(state: str) -> None:
    """Send `READY=1`, `STOPPING=1` and the like; does nothing outside of a notify service."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # the abstract namespace
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(state.encode(), address)
        except OSError:
            return  # a manager that does not listen is no reason to stop serving
