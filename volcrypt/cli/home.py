"""`volcrypt init` and `volcrypt status`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from volcrypt.cli.session import Command, JsonValue, Session, pass_session, print_table
from volcrypt.geometry import format_size
from volcrypt.settings import DEFAULT_ACCOUNT, DEFAULT_REGION, runtime_root

if TYPE_CHECKING:
    from volcrypt.operations.status import Status

EMBEDDED_WARNING = (
    "the keys are in a SoftHSM token in this home, its PIN beside them: that protects volumes and "
    "snapshots which leave the home, not a host stolen with the home on it"
)


@click.command(cls=Command)
@click.option(
    "--pin-file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="File (or -) with the PIN to give the token [default: a random one].",
)
@pass_session
def init(session: Session, pin_file: Path | None) -> None:
    """Make a home: the token, the key catalogue, the register. Does nothing where one is."""
    from volcrypt.operations.home import init_home

    path = session.home_path
    made = init_home(
        path,
        runtime_root(),
        account=DEFAULT_ACCOUNT,
        region=session.region or DEFAULT_REGION,
        pin=_read_pin(pin_file) if pin_file is not None else None,
    )
    document: JsonValue = {
        "Home": str(path.resolve()),
        "Created": made,
        "Account": session.home.account,
        "Region": session.home.region,
        "Warning": EMBEDDED_WARNING,
    }

    def text() -> None:
        print(f"{'made' if made else 'already there:'} home {path.resolve()}")
        print(f"note: {EMBEDDED_WARNING}")
        print("note: to change that, keep the home and what it protects on different media")

    session.show(document, text)


def _read_pin(path: Path) -> bytearray:
    with click.open_file(str(path), "rb") as file:
        pin = bytearray(file.read())
    while pin.endswith((b"\n", b"\r")):
        del pin[-1]
    return pin


@click.command(cls=Command)
@pass_session
def status(session: Session) -> None:
    """Show what is there, what is in use, and what deserves attention."""
    from volcrypt.operations.status import read_status

    found = read_status(session.home)
    session.show(_document(found), lambda: _print(found))


def _document(found: "Status") -> JsonValue:
    return {
        "Home": found.home,
        "Account": found.account,
        "Region": found.region,
        "Keys": found.keys,
        "Volumes": {
            "Total": found.volumes,
            "InUse": len(found.in_use),
            "Unencrypted": found.unencrypted_volumes,
            "Damaged": found.damaged,
        },
        "Snapshots": {"Total": found.snapshots, "Unencrypted": found.unencrypted_snapshots},
        "InUse": [
            {
                "VolumeId": item.volume_id,
                "Name": item.name,
                "Purpose": item.purpose,
                "Pid": item.pid,
                "MountPoint": item.mount_point,
                "Device": item.device,
            }
            for item in found.in_use
        ],
        "Workflows": [
            {"VolumeId": source_id, "NextStep": step} for source_id, step in found.workflows
        ],
        "FreeBytes": found.free_bytes,
        "Warnings": [*found.warnings, EMBEDDED_WARNING],
    }


def _print(found: "Status") -> None:
    print(f"home       {found.home} (account {found.account}, region {found.region})")
    print(f"keys       {found.keys}")
    print(
        f"volumes    {found.volumes}: {len(found.in_use)} in use, "
        f"{found.unencrypted_volumes} not encrypted"
    )
    print(f"snapshots  {found.snapshots}: {found.unencrypted_snapshots} not encrypted")
    print(f"free space {format_size(found.free_bytes)}")
    if found.in_use:
        print()
        print_table(
            ["VOLUME", "NAME", "IN USE BY", "PROCESS", "MOUNT POINT", "DEVICE"],
            [
                [
                    item.volume_id,
                    item.name or "",
                    item.purpose,
                    str(item.pid),
                    item.mount_point or "",
                    item.device or "",
                ]
                for item in found.in_use
            ],
        )
    for source_id, step in found.workflows:
        print(f"\nencryption of {source_id} is unfinished; next step: {step}")
    for warning in [*found.warnings, EMBEDDED_WARNING]:
        print(f"\nnote: {warning}")
