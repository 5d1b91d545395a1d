"""`volcrypt snapshot diff` and `export`: what is in snapshots."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from volcrypt.cli.confirmation import confirm_plaintext, yes_to_plaintext_option
from volcrypt.cli.customer_key import give_key, opening_key_option
from volcrypt.cli.exits import Exit
from volcrypt.cli.session import Command, JsonValue, Session, pass_session, print_table
from volcrypt.errors import ChunkCorruptError, ChunkMissingError, VolcryptError
from volcrypt.geometry import CHUNK_BYTES, format_size

if TYPE_CHECKING:
    from volcrypt.operations.volume_export import Skipped

_SKIPPING: Final = "--skip-damaged writes all that can be read, and lists the rest"
skip_damaged_option = click.option(
    "--skip-damaged", is_flag=True, help="Leave out what cannot be read, and say what; exit code 6."
)


@click.command(cls=Command)
@click.argument("first", metavar="FIRST")
@click.argument("second", metavar="SECOND")
@pass_session
def diff(session: Session, first: str, second: str) -> None:
    """List the chunks (512 KiB) in which two snapshots of one volume differ, as ranges of bytes. No
    data key is needed. Copies can be compared with copies under the same data key."""
    from volcrypt.operations.snapshot_diff import diff_snapshots

    found = diff_snapshots(session.home, first, second)
    ranges = [
        (run.start * CHUNK_BYTES, min(run.stop * CHUNK_BYTES, found.size_bytes), len(run))
        for run in found.changed.runs()
    ]

    def text() -> None:
        if ranges:
            rows = [[str(start), str(end - start), str(chunks)] for start, end, chunks in ranges]
            print_table(["OFFSET", "LENGTH", "CHUNKS"], rows)
        total = sum(end - start for start, end, _ in ranges)
        print(f"chunks that differ: {len(found.changed)}, {format_size(total)}")

    session.show(
        {
            "FirstSnapshotId": found.first.snapshot_id,
            "SecondSnapshotId": found.second.snapshot_id,
            "VolumeSize": found.size_bytes,
            "BlockSize": CHUNK_BYTES,
            "ChangedBlocks": len(found.changed),
            "ChangedRanges": [
                {"Offset": start, "Length": end - start, "FirstBlock": start // CHUNK_BYTES}
                for start, end, _ in ranges
            ],
        },
        text,
    )


@click.command(cls=Command)
@click.argument("snapshot", metavar="SNAPSHOT")
@click.argument("file", type=click.Path(path_type=Path))
@skip_damaged_option
@opening_key_option
@yes_to_plaintext_option
@pass_session
def export(
    session: Session,
    snapshot: str,
    file: Path,
    skip_damaged: bool,
    customer_key_file: Path | None,
    yes: bool,
) -> None:
    """Write the plaintext of SNAPSHOT to the new raw image FILE (sparse, mode 0600). This is on the
    audit log, and takes the permission volcrypt:ExportSnapshot."""
    from volcrypt.operations.new_files import check_new_file
    from volcrypt.operations.snapshot_export import export_snapshot
    from volcrypt.operations.snapshot_lookup import load_snapshot

    check_new_file(file)
    give_key(session, customer_key_file)
    if not yes and load_snapshot(session.home, snapshot).is_encrypted:
        confirm_plaintext(snapshot, file)
    with hinting_at_skipping():
        manifest, skipped = export_snapshot(
            session.home, snapshot, file, skip_damaged=skip_damaged, progress=session.progress()
        )
    show_exported(
        session,
        {"SnapshotId": manifest.snapshot_id, "File": str(file), "Size": manifest.size_bytes},
        f"{manifest.snapshot_id} is written, in plaintext, to {file}",
        skipped,
    )


@contextmanager
def hinting_at_skipping() -> Iterator[None]:
    """Who exports what is damaged learns that the rest can be had."""
    try:
        yield
    except (ChunkMissingError, ChunkCorruptError) as error:
        error.hint = f"{_SKIPPING}; 'volcrypt snapshot verify' names all that is damaged"
        raise
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        where = f"{error.filename}: " if error.filename else ""
        raise VolcryptError(f"{where}{error.strerror}", hint=_SKIPPING) from error


def show_exported(
    session: Session, document: dict[str, JsonValue], text: str, skipped: Sequence["Skipped"]
) -> None:
    """What was written, and what was left out, which ends the command with exit code 6."""

    def lines() -> None:
        print(text)
        for each in skipped:
            print(f"skipped: bytes {each.offset} to {each.offset + each.length - 1}: {each.reason}")

    document = document | {
        "Skipped": [
            {"Offset": each.offset, "Length": each.length, "Reason": each.reason}
            for each in skipped
        ]
    }
    session.show(document, lines)
    if skipped:
        click.get_current_context().exit(Exit.INTEGRITY)
