"""`volcrypt backup` and `volcrypt restore`: the key management state, to another machine."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from volcrypt.cli.pin import read_secret, type_secret
from volcrypt.cli.session import Command, Session, pass_session
from volcrypt.errors import ConfigurationError, InvalidArgumentError
from volcrypt.geometry import format_size

if TYPE_CHECKING:
    from volcrypt.formats.backup import BackupHeader

_PASSPHRASE = "passphrase of the backup"  # noqa: S105 what it is called
_PASSPHRASE_FILE = click.option(
    "--passphrase-file",
    metavar="F|-",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="File with the passphrase, or - for standard input [default: ask for it].",
)


@click.command(cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@_PASSPHRASE_FILE
@click.option(
    "--kms-key-id", metavar="K", help="Encrypt under this key of the profile's other KMS instead."
)
@pass_session
def backup(
    session: Session, file: Path, passphrase_file: Path | None, kms_key_id: str | None
) -> None:
    """Write keys, catalogue, audit log and volume records to the new FILE, encrypted.

    The data of volumes and snapshots is not in it. A key that is deleted later lives on in FILE.
    """
    from volcrypt.operations.backups import back_up
    from volcrypt.operations.new_files import check_new_file

    if passphrase_file is not None and kms_key_id is not None:
        raise click.UsageError("--passphrase-file and --kms-key-id exclude each other")
    check_new_file(file)
    passphrase = None if kms_key_id is not None else _passphrase(passphrase_file, twice=True)
    report = back_up(session.key_home, file, passphrase=passphrase, kms_key=kms_key_id)
    document = {
        "File": str(report.path),
        "Size": report.size_bytes,
        "Files": report.file_count,
        "AuditHead": f"{report.audit_head.sequence}:{report.audit_head.hash}",
        "HasPin": report.has_pin,
    }

    def text() -> None:
        print(f"{report.path}: {report.file_count} files, {format_size(report.size_bytes)}")
        if report.has_pin:
            print("note: the PIN of the token is in it; who opens it has the keys")

    session.show(document, text)


@click.command(cls=Command)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_PASSPHRASE_FILE
@pass_session
def restore(session: Session, file: Path, passphrase_file: Path | None) -> None:
    """Make the home (--home NEW) from the backup FILE. Refused where something is.

    Volumes open when their data files are put to their records, in NEW/volumes/ID/data.
    """
    from volcrypt.cli.access import other_kms_of
    from volcrypt.formats.backup import stretch_passphrase
    from volcrypt.operations.home_restore import restore_home, unwrap_secret

    def secret(header: "BackupHeader") -> bytes | bytearray:
        if header.passphrase is not None:
            return stretch_passphrase(_passphrase(passphrase_file, twice=False), header.passphrase)
        assert header.kms is not None, "internal error: a backup without a key"
        if passphrase_file is not None:
            raise InvalidArgumentError(f"{file} has no passphrase, but {header.kms.key_arn}")
        other_kms = other_kms_of(session)
        if other_kms is None:
            raise ConfigurationError(
                f"{file} is encrypted under {header.kms.key_arn}, of another KMS",
                hint="put a config.toml with a profile of that KMS into the new home, and name it "
                "with --profile",
            )
        return unwrap_secret(other_kms(), header.kms)

    report = restore_home(file, session.home_path, secret=secret)
    document = {
        "Home": str(report.path.resolve()),
        "HomeId": report.header.home_id,
        "Account": report.header.account,
        "Region": report.header.region,
        "Files": report.file_count,
    }

    def text() -> None:
        print(f"restored: home {report.path.resolve()}")
        print("note: check it with 'volcrypt audit verify'; the data of volumes is still to come")

    session.show(document, text)


def _passphrase(path: Path | None, *, twice: bool) -> bytearray:
    if path is not None:
        return read_secret(path, _PASSPHRASE, twice=twice)
    return type_secret(_PASSPHRASE, twice=twice)
