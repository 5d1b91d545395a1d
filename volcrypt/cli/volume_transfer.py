"""`volcrypt volume import`, `export`, `export-header`, `register`: volumes in and out."""

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from volcrypt.cli.confirmation import confirm_plaintext, yes_to_plaintext_option
from volcrypt.cli.customer_key import (
    check_one_stdin,
    give_key,
    opening_key_option,
    secret_file,
)
from volcrypt.cli.key_choice import key_choice, key_options
from volcrypt.cli.session import Command, JsonValue, Session, pass_session
from volcrypt.cli.snapshot_content import (
    hinting_at_skipping,
    show_exported,
    skip_damaged_option,
)
from volcrypt.cli.volume_view import volume_document, volume_fields
from volcrypt.formats.volume_record import key_arn_of
from volcrypt.geometry import UNIT_BYTES, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from volcrypt.operations.import_run import ImportReport


@click.command("import", cls=Command)
@click.argument("source", type=click.Path(path_type=Path), metavar="FILE|DEVICE")
@key_options
@click.option("--name", help="A name, unique among volumes.")
@click.option(
    "--expect-sha256",
    metavar="HEX",
    help="Make no volume unless the raw image has this SHA-256; takes reading its zeros, too.",
)
@click.option(
    "--abort", is_flag=True, help="Give up an unfinished import of FILE|DEVICE, or into its volume."
)
@secret_file(
    "--luks-passphrase-file",
    "FILE|DEVICE is encrypted by cryptsetup (LUKS2): import what is in it. A file with a "
    "passphrase, or -.",
)
@click.option(
    "--luks-header",
    metavar="H",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Its LUKS2 header, where that is not in FILE|DEVICE itself.",
)
@pass_session
def import_(
    session: Session,
    source: Path,
    kms_key_id: str | None,
    unencrypted: bool,
    customer_key_file: Path | None,
    name: str | None,
    expect_sha256: str | None,
    abort: bool,
    luks_passphrase_file: Path | None,
    luks_header: Path | None,
) -> None:
    """Make a volume of a raw image or block device; FILE|DEVICE is only read, and nobody may write
    to it meanwhile.

    What is zeros stays a hole. At the end all is read back from the medium, and compared with what
    was read. Interrupted at any point, the same command goes on where it was.
    """
    from volcrypt.operations.image_sources import LuksAccess
    from volcrypt.operations.images import import_volume
    from volcrypt.operations.volume_views import view_volume

    if abort:
        _abort(session, source)
        return
    # Not a pipe, either: who opens that waits for its writer.
    if not (source.is_file() or source.is_block_device()):
        wrong = "is no file or block device" if source.exists() else "does not exist"
        raise click.UsageError(f"{source} {wrong}")
    check_one_stdin(customer_key_file, luks_passphrase_file)
    if expect_sha256 is not None and not re.fullmatch("[0-9a-f]{64}", expect_sha256.lower()):
        raise click.UsageError("--expect-sha256 takes 64 hexadecimal digits")
    luks = None
    passphrase = _luks_passphrase(source, luks_passphrase_file, luks_header)
    if passphrase is not None:
        luks = LuksAccess(passphrase=passphrase, header=luks_header)
    report = import_volume(
        session.home,
        source,
        name=name,
        choice=key_choice(session, kms_key_id, unencrypted, customer_key_file),
        progress=session.progress(),
        luks=luks,
        expect_sha256=None if expect_sha256 is None else expect_sha256.lower(),
    )
    for note in _import_notes(report):
        print(f"note: {note}", file=sys.stderr)
    view = view_volume(session.home, report.record)
    session.show_created(
        report.record.volume_id,
        {**volume_document(view), "Import": _import_document(report)},
        {**volume_fields(view), **_import_fields(report)},
    )


def _import_notes(report: "ImportReport") -> "Iterator[str]":
    record = report.record
    if report.was_resumed:
        name = f"has the name {record.name}" if record.name else "has no name"
        yield (
            "this went on with an import that was interrupted; "
            f"{record.volume_id} {name}, as given now"
        )
    if added := record.size_bytes - report.source_bytes:
        yield (
            f"{report.source} has {report.source_bytes} bytes, no multiple of {UNIT_BYTES}: "
            f"{added} bytes of zeros follow them in the volume"
        )


def _abort(session: Session, source: Path) -> None:
    from volcrypt.operations.images import abort_import

    volume_id = abort_import(session.home, str(source))
    session.show(
        {"VolumeId": volume_id},
        lambda: print(f"the import of {source} into {volume_id} is given up"),
    )


def _luks_passphrase(source: Path, file: Path | None, header: Path | None) -> bytearray | None:
    from volcrypt.cli.pin import read_secret
    from volcrypt.operations.image_sources import is_luks

    if file is not None:
        return read_secret(file, "passphrase of the LUKS image", keep_line_end=True)
    if header is not None:
        raise click.UsageError("--luks-header goes with --luks-passphrase-file")
    if is_luks(source):
        print(
            f"warning: {source} is a LUKS container, and becomes the volume as it is; with "
            "--luks-passphrase-file its content does",
            file=sys.stderr,
        )
    return None


def _import_document(report: "ImportReport") -> dict[str, JsonValue]:
    return {
        "Source": str(report.source),
        "SourceSize": report.source_bytes,
        "DataBytes": report.data_bytes,
        "ReadBytes": report.read_bytes,
        "Resumed": report.was_resumed,
        "ContentDigest": report.content_digest,
        "Sha256": report.sha256,
        "Seconds": report.seconds,
        "BytesPerSecond": int(report.read_bytes / max(report.seconds, 1e-6)),
    }


def _import_fields(report: "ImportReport") -> dict[str, str]:
    rate = format_size(int(report.read_bytes / max(report.seconds, 1e-6)))
    return {
        "imported": f"{format_size(report.data_bytes)} of data; read back from the medium, and "
        "the same",
        "content digest": report.content_digest,
        **({"sha-256": report.sha256} if report.sha256 else {}),
        "time": f"{report.seconds:.1f} s, {rate}/s",
    }


@click.command(cls=Command)
@click.argument("volume", metavar="VOLUME")
@click.argument("file", type=click.Path(path_type=Path))
@skip_damaged_option
@opening_key_option
@yes_to_plaintext_option
@pass_session
def export(
    session: Session,
    volume: str,
    file: Path,
    skip_damaged: bool,
    customer_key_file: Path | None,
    yes: bool,
) -> None:
    """Write the plaintext of VOLUME, which nobody may be using, to the new raw image FILE (sparse,
    mode 0600). This is on the audit log, and takes the permission volcrypt:ExportVolume."""
    from volcrypt.operations.new_files import check_new_file
    from volcrypt.operations.records import load_record
    from volcrypt.operations.volume_export import export_volume

    check_new_file(file)
    give_key(session, customer_key_file)
    if not yes and load_record(session.home, volume).is_encrypted:
        confirm_plaintext(volume, file)
    started = time.monotonic()
    with hinting_at_skipping():
        report = export_volume(
            session.home, volume, file, skip_damaged=skip_damaged, progress=session.progress()
        )
    seconds = time.monotonic() - started
    rate = int(report.data_bytes / max(seconds, 1e-6))
    show_exported(
        session,
        {
            "VolumeId": report.record.volume_id,
            "File": str(file),
            "Size": report.record.size_bytes,
            "DataBytes": report.data_bytes,
            "ContentDigest": report.content_digest,
            "KmsKeyId": key_arn_of(report.record.wrapped_key),
            "Seconds": seconds,
            "BytesPerSecond": rate,
        },
        f"{report.record.volume_id} is written, in plaintext, to {file}\n"
        f"{format_size(report.data_bytes)} of data in {seconds:.1f} s, {format_size(rate)}/s\n"
        f"content digest {report.content_digest}",
        report.skipped,
    )


@click.command(cls=Command)
@click.option(
    "--data",
    metavar="PATH",
    type=click.Path(path_type=Path),
    required=True,
    help="Where its data is: a file, or a block device.",
)
@click.option(
    "--record",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The copy of its record [default: PATH.volcrypt].",
)
@click.option("--store", metavar="STORE", help="The copy of its record is in this snapshot store.")
@click.option("--volume-id", metavar="V", help="Which volume that is.")
@click.option("--name", help="Its name here [default: as in the home that made it].")
@click.option("--kms-key-id", metavar="K", help="Only if it is under this KMS key.")
@opening_key_option
@click.option("--force", is_flag=True, help="On another block device than it was made on.")
@pass_session
def register(
    session: Session,
    data: Path,
    record: Path | None,
    store: str | None,
    volume_id: str | None,
    name: str | None,
    kms_key_id: str | None,
    customer_key_file: Path | None,
    force: bool,
) -> None:
    """Take an encrypted volume of another home into this one, by the copy of its record, or its
    newer record if it is here already. The KMS must let this home have its data key."""
    from volcrypt.names import parse_volume_id
    from volcrypt.operations.registration import CopySource, register_volume
    from volcrypt.operations.volume_views import view_volume

    source = CopySource(
        record=record,
        store=store,
        volume_id=None if volume_id is None else parse_volume_id(volume_id),
    )
    give_key(session, customer_key_file)
    done = register_volume(session.home, data, source, name=name, kms_key=kms_key_id, force=force)
    view = view_volume(session.home, done.record)
    fresh = "not checkable" if done.known_counter is None else "compared with the record here"
    session.show_created(
        done.record.volume_id,
        {**volume_document(view), "Freshness": fresh},
        {**volume_fields(view), "freshness": fresh},
    )


@click.command("export-header", cls=Command)
@click.argument("volume", metavar="VOLUME")
@click.argument("file", type=click.Path(path_type=Path))
@secret_file("--passphrase-file", "File with the header's passphrase, or - [default: ask for it].")
@opening_key_option
@pass_session
def export_header_(
    session: Session,
    volume: str,
    file: Path,
    passphrase_file: Path | None,
    customer_key_file: Path | None,
) -> None:
    """Write a LUKS2 header to the new FILE, with which cryptsetup opens the data of VOLUME.

    All of VOLUME that was never written is written first. Whoever has FILE and its passphrase
    reads VOLUME from then on, and all that shares its data key, whatever becomes of the KMS key.
    """
    from volcrypt.cli.pin import read_secret, type_secret
    from volcrypt.operations.header_export import export_header
    from volcrypt.operations.new_files import check_new_file

    check_one_stdin(customer_key_file, passphrase_file)
    check_new_file(file)
    give_key(session, customer_key_file)
    what = "passphrase of the header"
    if passphrase_file is not None:
        passphrase = read_secret(passphrase_file, what, twice=True)
    else:
        passphrase = type_secret(what, twice=True)
    made = export_header(
        session.home, volume, file, passphrase=passphrase, progress=session.progress()
    )
    record, key = made.record, made.record.wrapped_key
    document = {
        "VolumeId": record.volume_id,
        "File": str(made.target),
        "DataPath": str(made.data_path),
        "DataEncryptionKeyId": key.data_key_id if key else None,
        "FilledBytes": made.filled_bytes,
    }

    def text() -> None:
        print(f"{record.volume_id} opens with {made.target}, while volcrypt does not serve it:")
        print(f"  cryptsetup open --type luks2 --header {made.target} {made.data_path} NAME")
        print("note: that needs no KMS; keep the header like a key, and detach before you use it")
        print("note: from now on each snapshot of the volume reads all of it")

    session.show(document, text)
