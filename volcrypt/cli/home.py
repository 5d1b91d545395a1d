"""`volcrypt init` and `volcrypt status`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from volcrypt.cli.migration_view import migration_document, progress_text
from volcrypt.cli.pin import read_secret
from volcrypt.cli.session import (
    Command,
    JsonValue,
    Session,
    pass_session,
    print_paragraph,
    print_table,
)
from volcrypt.cli.settings import encryption_text, settings_document
from volcrypt.cli.snapshot_view import job_document, original_of, progress_fields
from volcrypt.cli.status_view import (
    how_text,
    key_document,
    place_text,
    use_warnings,
    watch_document,
)
from volcrypt.cli.volume_view import filled_text, lazy_document
from volcrypt.errors import InvalidArgumentError
from volcrypt.geometry import format_size
from volcrypt.settings import DEFAULT_ACCOUNT, DEFAULT_REGION, runtime_root

if TYPE_CHECKING:
    from volcrypt.operations.status import Status, UnfinishedEncryption
    from volcrypt.volume.control_messages import MigrationState

PIN_KEPT_WARNING = (
    "the keys are in a SoftHSM token in this home, with the PIN beside it: that protects volumes "
    "and snapshots which leave the home, not a stolen home; 'init --pin-file -' in a new home "
    "keeps no PIN, and asks for it at a terminal or takes it from a systemd credential"
)
PIN_KEPT_SHORTLY = (
    "the keys are in a SoftHSM token in this home, with the PIN beside it; 'volcrypt init' says "
    "what that does not protect, and what to change"
)
PIN_ASKED_WARNING = (
    "the keys are in a SoftHSM token in this home, the PIN is not: who steals the home still needs "
    "it, and can try PINs as fast as his machines are"
)


def embedded_warning(session: Session) -> str:
    """What the embedded default does not protect."""
    from volcrypt.kms.home import keeps_pin

    return PIN_KEPT_WARNING if keeps_pin(session.home_path / "kms") else PIN_ASKED_WARNING


def short_embedded_warning(session: Session) -> str:
    """The same, for who sees it often."""
    warning = embedded_warning(session)
    return PIN_KEPT_SHORTLY if warning == PIN_KEPT_WARNING else warning


@click.command(cls=Command)
@click.option(
    "--pin-file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="File (or -) with the PIN to give the token [default: a random one].",
)
@pass_session
def init(session: Session, pin_file: Path | None) -> None:
    """Make a home: the token, the key catalogue, the register. Does nothing where one is."""
    from volcrypt.operations.home_directory import init_home

    path = session.home_path
    if pin_file is not None and (path / "home").exists():
        raise InvalidArgumentError(f"there is a home at {path} already; its PIN stays as it is")
    made = init_home(
        path,
        runtime_root(),
        account=DEFAULT_ACCOUNT,
        region=session.region or DEFAULT_REGION,
        pin=read_secret(pin_file, "new PIN of the token", twice=True)
        if pin_file is not None
        else None,
    )
    document: JsonValue = {
        "Home": str(path.resolve()),
        "Created": made,
        "Account": session.home.account,
        "Region": session.home.region,
        "Warning": embedded_warning(session),
    }

    def text() -> None:
        print(f"{'made' if made else 'already there:'} home {path.resolve()}")
        print(f"note: {embedded_warning(session)}")

    session.show(document, text)


@click.command(cls=Command)
@click.option("--watch", is_flag=True, help="Show it live, until q or Ctrl-C.")
@click.option(
    "--metrics",
    metavar="HOST:PORT|PATH|-",
    help="Serve figures (OpenMetrics) on a loopback address or Unix socket; - prints them.",
)
@pass_session
def status(session: Session, watch: bool, metrics: str | None) -> int | None:
    """Show what is there, what is in use, and what deserves attention.

    With --watch it fills the terminal, anew each second: volumes and who uses them, what is read
    and written, snapshots that are being made, volumes that are being encrypted or filled. Keys
    and stores are looked at once a minute.

    With --metrics it is a process for monitoring systems, until SIGTERM: the figures of volumes
    that are served, and of snapshots that are being made. It asks no KMS and no store.
    """
    if metrics is not None:
        _serve_metrics(session, metrics, watch)
        return None
    if watch:
        return _watch(session)
    from volcrypt.operations.status import read_status

    found = read_status(session.home)
    warnings = [*found.warnings, *use_warnings(found), short_embedded_warning(session)]
    session.show(_document(found, warnings), lambda: _print(found, warnings))
    return None


def _watch(session: Session) -> int:
    if session.as_json:
        raise click.UsageError("--watch and --json exclude each other")
    from volcrypt.cli.access import open_home
    from volcrypt.cli.watch import watch
    from volcrypt.operations.live_status import LiveLook

    # A home of each look's own: one that stays open would keep 'kms serve' out.
    return watch(LiveLook(lambda: open_home(session)))


def _serve_metrics(session: Session, address: str, watch: bool) -> None:
    if watch or session.as_json:
        raise click.UsageError("--metrics goes without --watch and --json")
    from volcrypt.daemons.metrics_server import serve
    from volcrypt.daemons.openmetrics import render
    from volcrypt.daemons.volume_metrics import volume_families
    from volcrypt.operations.metrics import read_figures

    home = session.home
    if address == "-":
        page, _ = render(volume_families(read_figures(home)))
        print(page.decode(), end="")
        return
    serve(
        address,
        lambda: volume_families(read_figures(home)),
        lambda url: print(f"serving figures at {url}", flush=True),
    )


def _document(found: "Status", warnings: list[str]) -> JsonValue:
    return {
        "Home": found.home,
        "Account": found.account,
        "Region": found.region,
        "Settings": settings_document(found.settings) if found.settings else None,
        "Keys": found.keys,
        "TroubledKeys": [key_document(key) for key in found.troubled_keys],
        "Volumes": {
            "Total": found.volumes,
            "InUse": found.volumes_in_use,
            "Unencrypted": found.unencrypted_volumes,
            "Damaged": found.damaged,
        },
        "Snapshots": {"Total": found.snapshots, "Unencrypted": found.unencrypted_snapshots},
        "InUse": [
            {
                "VolumeId": item.volume_id,
                "SnapshotId": item.snapshot_id,
                "Name": item.name,
                "Purpose": item.purpose,
                "Pid": item.pid,
                "MountPoint": item.mount_point,
                "Device": item.device,
                "FileSystems": list(item.file_systems),
                "SyncFailed": item.sync_failed,
                "WritesWait": item.writes_wait,
                "DataPlane": item.data_plane,
                "FastRequests": item.fast_requests,
                "Discard": item.discard,
                "DiscardZeros": item.discard_zeros,
                "ReadOnly": item.read_only,
                "Kept": item.kept,
                "ReadBytes": item.read_bytes,
                "WrittenBytes": item.written_bytes,
                **watch_document(item),
                "Initialization": lazy_document(item.lazy) if item.lazy else None,
                "Migration": migration_document(item.migration) if item.migration else None,
            }
            for item in found.in_use
        ],
        "Workflows": [
            {
                "VolumeId": each.volume_id,
                "Name": each.name,
                "Rekeys": each.rekeys,
                "NextStep": each.step,
                "Running": each.is_running,
                "Paused": each.is_paused,
            }
            for each in found.workflows
        ],
        "Imports": [
            {"VolumeId": volume_id, "Source": source, "NextStep": step}
            for volume_id, source, step in found.imports
        ],
        "PendingSnapshots": [
            {
                **job_document(job),
                "Pid": job.progress.pid if job.progress else None,
                "BytesPerSecond": job.progress.bytes_per_second if job.progress else None,
                "SecondsLeft": job.progress.seconds_left if job.progress else None,
            }
            for job in found.pending
        ],
        "FailedSnapshots": [job_document(job) for job in found.failed],
        "FreeBytes": found.free_bytes,
        "Warnings": warnings,
    }


def _print(found: "Status", warnings: list[str]) -> None:
    print(f"home       {found.home} (account {found.account}, region {found.region})")
    print(f"keys       {found.keys if found.keys is not None else '-'}")
    if found.settings is not None:
        key = found.settings.default_kms_key or "none"
        print(f"by default encryption is {encryption_text(found.settings)}; the key is {key}")
    print(
        f"volumes    {found.volumes}: {found.volumes_in_use} in use, "
        f"{found.unencrypted_volumes} not encrypted"
    )
    print(
        f"snapshots  {found.snapshots} in the local store: {found.unencrypted_snapshots} not "
        "encrypted"
    )
    print(f"free space {format_size(found.free_bytes)}")
    if found.in_use:
        print()
        print_table(
            ["VOLUME", "NAME", "IN USE BY", "PROCESS", "MOUNTED ON", "DEVICE", "HOW", "FILLED"],
            [
                [
                    item.volume_id or item.snapshot_id or "",
                    item.name or "",
                    item.purpose if item.fenced is None else f"{item.purpose}, FENCED",
                    str(item.pid),
                    place_text(item),
                    item.device or "",
                    how_text(item),
                    filled_text(item.lazy) if item.lazy else "",
                ]
                for item in found.in_use
            ],
        )
    if found.pending:
        print()
        print_table(
            ["SNAPSHOT", "OF", "PROGRESS", "RATE", "TIME LEFT", "PROCESS"],
            [
                [
                    job.snapshot_id,
                    original_of(job),
                    *(fields.get(key, "") for key in ("progress", "rate", "time left", "process")),
                ]
                for job in found.pending
                for fields in [progress_fields(job)]
            ],
        )
    for job in found.failed:
        print()
        print_paragraph(f"snapshot {job.snapshot_id} was not completed: {job.reason}")
    migrations = {item.volume_id: item.migration for item in found.in_use}
    for each in found.workflows:
        print()
        print_paragraph(_unfinished_text(each, migrations.get(each.volume_id)))
    for volume_id, source, next_step in found.imports:
        if next_step:
            way = f"next step: {next_step}; 'volcrypt volume import {source}' goes on with it"
        else:
            way = f"its cursor is damaged: 'volcrypt volume import {source or volume_id} --abort'"
        print()
        print_paragraph(f"import of {source or '-'} into {volume_id} is unfinished; {way}")
    for warning in warnings:
        print()
        print_paragraph(f"note: {warning}")


def _unfinished_text(each: "UnfinishedEncryption", state: "MigrationState | None") -> str:
    name = each.name or each.volume_id
    what = f"{'rekeying' if each.rekeys else 'encryption'} of {name} ({each.volume_id})"
    if each.is_running:
        return f"{what} is at work: {each.step if state is None else progress_text(state)}"
    how = "paused" if each.is_paused else "unfinished"
    # Later ones can be finished only, or it depends on where the data is.
    giving_up = ", '--abort' gives it up" if each.step in ("snapshot", "copy", "compare") else ""
    return (
        f"{what} is {how}; next step: {each.step}; "
        f"'volcrypt encrypt {name} --resume' goes on with it{giving_up}"
    )
