"""Import: a raw image or block device becomes a volume; plaintext is written nowhere else.

    cursor, step COPY       names source, key and volume to be
    chunks into the volume's data file, and what was read into the log; both synced; cursor: ...
    cursor, step VERIFY     all is copied, and the source did not change
    chunks read back from the medium, under a key unwrapped for that, and compared; cursor: ...
    one transaction         the volume exists, the cursor does not

Killed anywhere, the same command goes on at the cursor: it repeats what was done since, of reading
and of comparing at most 2 %, or 32 MiB where that is more. A failure that goes away by itself or by
somebody's doing (no space, a source that cannot be read) leaves the import to be gone on with, or
given up (`abort_import`); after all others nothing is left. Until it is finished the volume has no
record, so nothing can open it.
"""

import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from volcrypt.errors import (
    FormatError,
    IntegrityError,
    InvalidArgumentError,
    RecordMissingError,
    SourceChangedError,
    TryAgainError,
    VerificationError,
    VolcryptError,
    WorkNotFoundError,
)
from volcrypt.formats.import_cursor import KIND, ImportCursor, ImportStep
from volcrypt.formats.volume_record import key_arn_of
from volcrypt.geometry import UNIT_BYTES, check_volume_size, chunk_range
from volcrypt.kms.clock import host_time
from volcrypt.names import VolumeId, make_volume_id
from volcrypt.operations.home import Home
from volcrypt.operations.image_sources import (
    LuksAccess,
    OpenImage,
    lasting_path,
    open_image,
)
from volcrypt.operations.import_cursors import (
    find_import,
    forget_import,
    give_up_hint,
    load_import,
)
from volcrypt.operations.import_logs import first_of_log
from volcrypt.operations.import_run import CHUNK_DIGEST, ImportReport, ImportRun, read_chunk
from volcrypt.operations.keys import (
    KeyChoice,
    check_encryption,
    check_source_key,
    choose_key,
    is_under_customer_key,
    resolve_key,
    volume_context,
)
from volcrypt.operations.leftovers import remove_leftovers
from volcrypt.operations.progress import Progress
from volcrypt.operations.volumes import check_name_is_free
from volcrypt.operations.write_budget import forget_count
from volcrypt.volume.directory import DATA_FILE
from volcrypt.volume.owner import hold_volume


def import_volume(
    home: Home,
    source: Path,
    *,
    name: str | None,
    choice: KeyChoice,
    progress: Progress,
    luks: LuksAccess | None = None,
    expect_sha256: str | None = None,
) -> ImportReport:
    """A volume that holds the bytes of a raw image or block device, zeros behind its end up to
    the next whole data unit; or, with `luks`, what is encrypted in it, under a data key of its
    own. Holes and zeros of the source are holes. Goes on with an unfinished import of the source.

    Raises SourceChangedError, VerificationError when what is on the medium is not what was read, or
    not `expect_sha256`; InvalidArgumentError when other things are asked for than an unfinished
    import was begun with; VolumeInUseError, KmsError, NoSpaceError, OSError.
    """
    started = time.monotonic()
    check_name_is_free(home, name)
    with open_image(source, luks) as image, ExitStack() as stack:
        place = lasting_path(source)
        known = find_import(home, place)
        if known is None:
            cursor = _begin(home, image, choice, stack)
        else:
            cursor = _go_on(home, place, known, stack)
            _check_same(home, cursor, image, source, choice)
        run = ImportRun(home, source, image, cursor, progress)
        try:
            return run.finish(name, expect_sha256, started)
        except BaseException as error:
            is_hopeless = isinstance(error, SourceChangedError | VerificationError)
            if is_hopeless or run.is_fresh:
                _give_up(home, run.cursor)
            elif isinstance(error, IntegrityError | FormatError):
                error.hint = give_up_hint(source)
            elif isinstance(error, VolcryptError):
                hint = "the same command goes on where this one stopped; with --abort it gives up"
                error.hint = hint if error.hint is None else f"{error.hint}; {hint}"
            raise


def _go_on(home: Home, place: Path, volume_id: VolumeId, stack: ExitStack) -> ImportCursor:
    """Own the volume to be for as long as `stack`, and then look where its import is."""
    directory = home.volumes.path_of(volume_id)
    if not directory.is_dir():
        raise RecordMissingError(
            f"what was imported into volume {volume_id}", hint=give_up_hint(volume_id)
        )
    stack.enter_context(hold_volume(directory, purpose="import"))
    if find_import(home, place) != volume_id:
        raise TryAgainError(f"the import of {place} was just finished or given up")
    return load_import(home, volume_id)


def abort_import(home: Home, source: str) -> VolumeId:
    """Give an unfinished import up, named by its source or by the id of the volume to be: what was
    made of it is removed. Raises WorkNotFoundError when there is none, VolumeInUseError."""
    entry = home.register.get(KIND, source)
    volume_id = find_import(home, lasting_path(Path(source)))
    if entry is not None:
        volume_id = VolumeId(entry.id)
    if volume_id is None:
        raise WorkNotFoundError(f"there is no unfinished import of {source}")
    directory = home.volumes.path_of(volume_id)
    with ExitStack() as held:
        if directory.exists():
            held.enter_context(hold_volume(directory, purpose="import"))
        with suppress(VolcryptError):  # of a damaged one no key is known
            forget_count(home, load_import(home, volume_id).wrapped_key)
        forget_import(home, volume_id)
        home.volumes.remove(volume_id)
    return volume_id


def _begin(home: Home, image: OpenImage, choice: KeyChoice, stack: ExitStack) -> ImportCursor:
    """Decide everything, and own the directory of the volume to be for as long as `stack`; nothing
    is durable yet, and what is made is a leftover."""
    size_bytes = check_volume_size(-(-image.content.size_bytes // UNIT_BYTES) * UNIT_BYTES)
    volume_id = make_volume_id(home.random_id_bytes())
    wrapped = choose_key(home, choice, volume_context(volume_id))
    with home.exclusive():
        remove_leftovers(home)
        home.volumes.make(volume_id)
        stack.enter_context(hold_volume(home.volumes.path_of(volume_id), purpose="import"))
    return ImportCursor(
        volume_id=volume_id,
        generation=0,
        step=ImportStep.COPY,
        size_bytes=size_bytes,
        wrapped_key=wrapped,
        source=image.identity,
        started_at=int(host_time()),
    )


def _check_same(
    home: Home, cursor: ImportCursor, image: OpenImage, source: Path, choice: KeyChoice
) -> None:
    """Raises InvalidArgumentError unless an unfinished import can go on as it was begun."""
    what = f"the unfinished import of {source}"
    give_up = give_up_hint(source)
    check_encryption(home, choice)
    wrapped = cursor.wrapped_key
    arn = key_arn_of(wrapped)
    check_source_key(home, wrapped, what, choice=choice)
    if (
        choice.encrypted != (wrapped is not None)
        or (choice.kms_key is not None and resolve_key(home, choice.kms_key) != arn)
        or (choice.customer_key is not None and not is_under_customer_key(wrapped))
    ):
        key = "no key" if wrapped is None else arn or "a customer-provided key"
        raise InvalidArgumentError(f"{what} was begun under {key}", hint=give_up)
    if cursor.source.luks_header != image.identity.luks_header:
        raise InvalidArgumentError(f"{what} was begun with another LUKS header", hint=give_up)
    is_same = cursor.source == image.identity
    first = first_of_log(home, cursor) if is_same else None
    if first is not None:
        # A file system that was mounted meanwhile writes to its beginning. Devices have no times.
        index, digest = first
        chunk = chunk_range(index, cursor.size_bytes)
        piece = memoryview(bytearray(chunk.length))
        read_chunk(image.content, chunk, piece)
        is_same = CHUNK_DIGEST.digest(piece) == digest
    if not is_same:
        raise InvalidArgumentError(f"{source} was changed since its import was begun", hint=give_up)


def _give_up(home: Home, cursor: ImportCursor) -> None:
    """Remove all that was made. The caller owns the volume, and has an error to raise."""
    forget_count(home, cursor.wrapped_key)
    try:
        # Also of an import that was never begun, as far as we know: a save that failed may have
        # come as far as the register.
        forget_import(home, cursor.volume_id)
    except (VolcryptError, OSError):
        # The register refuses, on a full disk or after an error. What it names stays, and the same
        # command goes on with it; the room that the data took is given back.
        with suppress(FileNotFoundError):
            path = home.volumes.path_of(cursor.volume_id) / DATA_FILE
            os.truncate(path, 0)
            os.truncate(path, cursor.size_bytes)
    else:
        home.volumes.remove(cursor.volume_id)
