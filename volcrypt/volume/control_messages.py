"""The protocol of the control socket: requests, answers, and their lines.

A Unix socket, mode 0600, that answers processes of its own user and of root (SO_PEERCRED). Each
side sends JSON documents, one a line; every request gets one answer, in order. The member `type`
says which one a document is.

Taking a snapshot: `begin-capture` makes a point in time and answers with what has changed, and with
descriptors (SCM_RIGHTS) of the files in which chunks are kept that are written to from now on
(`volcrypt.volume.preserve`). The caller says once which chunks are `wanted`, reads their ciphertext
from the data file or from there, and says `captured` for each: an error in answer to that means
that the capture has failed, and what was read may be anything. It ends with `commit-capture` (the
snapshot is complete) or `abort-capture`. The capture belongs to the connection: when that ends, an
open capture is aborted. Its size is the one in the answer, whatever the volume grows to meanwhile.

`guard-thaw`, with the descriptors of a directory and of the process that is about to freeze its
file system (a pidfd), has it thawed in the worst case (`volcrypt.volume.thaw_guard`), until
`thawed` comes on the same connection.

A migration (`volcrypt.volume.migrator`) is begun by `begin-migration`, goes on by `copy-migration`
and `verify-migration`, a piece at a time, and is prepared, switched or abandoned by
`turn-migration`; each names the migration and is answered by where that is. The target's data key
comes through a pipe whose reading end goes along: to begin, and unwrapped afresh to verify.

Several volumes at one point: `begin-capture` with `hold` for each is answered at once by `done`,
and no write begins from then on; then `resume` for each, which is answered as `begin-capture` is
otherwise. Writers do not wait longer than `HOLD_SECONDS`: a later `resume` gets TryAgainError.
"""

import zlib
from typing import Final, Literal

import msgspec

from volcrypt.errors import MalformedError
from volcrypt.formats.change_map import ParentPoint
from volcrypt.geometry import chunk_count
from volcrypt.names import DataKeyId, SnapshotId, StoreId, VolumeId
from volcrypt.volume.error_report import ErrorReport
from volcrypt.volume.fence import CheckState, FenceNote, WatchOrder
from volcrypt.volume.request_stats import RequestCounts

MAX_REQUEST_BYTES: Final = 32 * 2**20
"""The bitmap of the largest volume has 16 MiB, and stands in the document as text."""

MAX_ANSWER_BYTES: Final = 64 * 2**20


class _Document(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"
):
    """One line, in either direction."""


class StatusRequest(_Document, frozen=True, tag="status"):
    pass


class MetricsRequest(_Document, frozen=True, tag="metrics"):
    pass


class BeginCaptureRequest(_Document, frozen=True, tag="begin-capture"):
    """With `hold`, writes wait until `resume` comes on the same connection."""

    hold: bool = False


class ResumeRequest(_Document, frozen=True, tag="resume"):
    pass


class WantedRequest(_Document, frozen=True, tag="wanted"):
    """The snapshot needs no chunk but those in `bitmap`, as `CaptureAnswer.changed`."""

    bitmap: bytes


class CapturedRequest(_Document, frozen=True, tag="captured"):
    """Chunks `first` to `first + count - 1` are stored, or will not be."""

    first: int
    count: int


class CommitCaptureRequest(_Document, frozen=True, tag="commit-capture"):
    """The snapshot is complete and durable; changes are counted from it now."""

    parent: ParentPoint


class AbortCaptureRequest(_Document, frozen=True, tag="abort-capture"):
    pass


class GrowRequest(_Document, frozen=True, tag="grow"):
    """The volume's record says `size_bytes`, and the data file is as long: serve that much."""

    size_bytes: int


class FetchRequest(_Document, frozen=True, tag="fetch"):
    """Chunks `first` to `first + count - 1` of a lazy volume are to be readable in its data file;
    of another volume they are."""

    first: int
    count: int


class GuardThawRequest(_Document, frozen=True, tag="guard-thaw"):
    """Thaw when `seconds` are over, or when this connection ends and the freezer has, too."""

    seconds: float


class ThawedRequest(_Document, frozen=True, tag="thawed"):
    """There is nothing to guard any more."""


class MigrationOrder(_Document, frozen=True, tag="begin-migration"):
    """Move the volume to a new file beside its data (`volume.migration_files`), or go on with that.
    `migration` and `region_bytes` are in the header of those, `count_path` counts what
    is encrypted under the new key, whose KMS key is `kms_key_arn`, and `watch` is what a watcher
    asks from the switch on."""

    migration: bytes
    region_bytes: int
    target_key_id: DataKeyId
    kms_key_arn: str | None = None
    count_path: str | None = None
    watch: WatchOrder | None = None


class CopyMigrationRequest(_Document, frozen=True, tag="copy-migration"):
    """Copy again what may differ, and then up to chunk `stop`, at most `rate_bytes` a second."""

    migration: bytes
    stop: int
    rate_bytes: int | None = None


class VerifyMigrationRequest(_Document, frozen=True, tag="verify-migration"):
    """Compare chunks from `first` to `stop` with what the medium has under the key that comes."""

    migration: bytes
    first: int
    stop: int
    rate_bytes: int | None = None


Turn = Literal["prepare", "withdraw", "switch", "abandon", "pause"]


class TurnMigrationRequest(_Document, frozen=True, tag="turn-migration"):
    """As the methods of `Migrator` of these names; `pause` is for work that was asked for on
    another connection, and lasts until the next `begin-migration`."""

    migration: bytes
    to: Turn


class UnmountRequest(_Document, frozen=True, tag="unmount"):
    """Unmount, flush and end, unless somebody uses the mount."""


class StopRequest(_Document, frozen=True, tag="stop"):
    """Flush, unmount and end, whoever uses the mount: what SIGTERM does."""


Request = (
    StatusRequest
    | MetricsRequest
    | BeginCaptureRequest
    | ResumeRequest
    | WantedRequest
    | CapturedRequest
    | CommitCaptureRequest
    | AbortCaptureRequest
    | GrowRequest
    | FetchRequest
    | GuardThawRequest
    | ThawedRequest
    | MigrationOrder
    | CopyMigrationRequest
    | VerifyMigrationRequest
    | TurnMigrationRequest
    | UnmountRequest
    | StopRequest
)


class LazyProgress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of a lazy volume is here. `total_chunks` are the snapshot's; `fill_rate` as in
    LazySource; `problem` is why something of it cannot be had."""

    store_id: StoreId
    present_chunks: int
    total_chunks: int
    fill_rate: int | None
    problem: str | None


Phase = Literal["copy", "verify", "prepared", "switched"]


class MigrationState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a migration is. All is in chunks, of `chunks`: before `cursor` everything is on both
    sides, before `durable` for good, but for `to_repeat` regions; before `verified` it was compared
    in this session. `copied_bytes` in `busy_seconds` of this session.

    `phase`: "copy", "verify" when all is copied, "prepared"; "switched" in the answer to that, and
    then no more. `problem`: why the target was given
    up. Of `writes` before the cursor, or otherwise answered by Python, since it began: what half
    of them took at most, 99 of 100, and the slowest.
    """

    migration: bytes
    phase: Phase
    source_key_id: DataKeyId | None
    target_key_id: DataKeyId
    chunks: int
    cursor: int
    durable: int
    verified: int
    to_repeat: int
    copied_bytes: int
    busy_seconds: float
    rate_bytes: int | None
    paused: bool
    problem: str | None
    writes: int
    p50_us: int
    p99_us: int
    worst_us: int

    @property
    def step_chunks(self) -> int:
        """Those that the step which it is at has behind it."""
        return self.cursor if self.phase == "copy" else self.verified


class StatusAnswer(_Document, frozen=True, tag="status"):
    """`memory_locked` False: the limits of this user let key and plaintext go to swap.
    `preserve_longest_us`: the longest that a write waited while its chunk was kept for a snapshot.
    `sync_failed`: writes were lost, and no more are taken until the volume is opened again.
    `writes_wait` while nobody can say that the volume's lease is held.
    `checks` are those of the watcher, if there is one, whose process is `watcher_pid`.
    `lazy` is None when every chunk is here; `snapshot_id` is there for a mounted snapshot.
    `data_plane` is "python" or "native"; `fast_requests` are those that needed no Python.
    `discard`, `discard_zeros`: what becomes holes (`volume.launch.Discarding`).
    `kept`: the mount outlives the process, for another one to take over (`volume.kept_mount`).
    `read_bytes` and `written_bytes` are what was answered since the mount, fast or not.
    `data_key_id` is of what is served, None for unencrypted; `migration` where that is going.
    """

    volume_id: VolumeId
    name: str | None
    pid: int
    size_bytes: int
    mount_directory: str
    read_only: bool
    encrypted: bool
    memory_locked: bool
    capture_running: bool
    parent: ParentPoint | None
    preserve_longest_us: int = 0
    sync_failed: bool = False
    fenced: FenceNote | None = None
    writes_wait: bool = False
    checks: list[CheckState] = []
    watcher_pid: int | None = None
    lazy: LazyProgress | None = None
    snapshot_id: SnapshotId | None = None
    data_plane: str = "python"
    fast_requests: int = 0
    discard: bool = False
    discard_zeros: bool = False
    read_bytes: int = 0
    written_bytes: int = 0
    data_key_id: DataKeyId | None = None
    migration: MigrationState | None = None
    kept: bool = False


class MetricsAnswer(_Document, frozen=True, tag="metrics"):
    """What a monitoring system asks for beside the status. `free_bytes` are those of the file
    system under the data, None where that is a device, or cannot be asked. `encrypted_bytes`: how
    much was encrypted under the volume's data key in this home, at most."""

    requests: list[RequestCounts]
    free_bytes: int | None = None
    encrypted_bytes: int | None = None


class CaptureAnswer(_Document, frozen=True, tag="capture"):
    """`parent` and `changed` are None when every chunk has to be looked at. Writes paused for
    `barrier_us`. With it come the descriptors of a `PreservedReader`.

    `changed` has one bit a chunk, the lowest of byte 0 first, compressed by zlib. So has `absent`:
    chunks that have to be asked for by `fetch` before they are read; None where there are none.
    `data_key_id` is what the chunks are encrypted under, None for nothing: a record that was read
    before may say something else.
    """

    size_bytes: int
    parent: ParentPoint | None
    changed: bytes | None
    barrier_us: int
    absent: bytes | None = None
    data_key_id: DataKeyId | None = None


class MigrationAnswer(_Document, frozen=True, tag="migration"):
    """`state` is None when none is going on."""

    state: MigrationState | None


class DoneAnswer(_Document, frozen=True, tag="done"):
    pass


class ErrorAnswer(_Document, frozen=True, tag="error"):
    report: ErrorReport


Answer = StatusAnswer | MetricsAnswer | CaptureAnswer | MigrationAnswer | DoneAnswer | ErrorAnswer

_requests: Final = msgspec.json.Decoder(Request)
_answers: Final = msgspec.json.Decoder(Answer)


def encode(document: Request | Answer) -> bytes:
    """The line of a document."""
    return msgspec.json.encode(document) + b"\n"


def decode_request(line: bytes) -> Request:
    """Raises MalformedError."""
    try:
        request: Request = _requests.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError("control request", "it does not parse") from error
    return request


def decode_answer(line: bytes) -> Answer:
    """Raises MalformedError."""
    try:
        answer: Answer = _answers.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError("control answer", "it does not parse") from error
    return answer


def pack_bits(bits: bytes | bytearray) -> bytes:
    """A volume of 64 TiB has 16 MiB of bits, nearly all of them alike."""
    return zlib.compress(bits, level=1)


def unpack_bits(packed: bytes, size_bytes: int) -> bytes:
    """The bits of all chunks of a volume of this size. Raises MalformedError."""
    length = -(-chunk_count(size_bytes) // 8)
    inflater = zlib.decompressobj()
    try:
        bits = inflater.decompress(packed, length)
    except zlib.error as error:
        raise MalformedError("control document", "its bitmap is damaged") from error
    if len(bits) != length or inflater.unconsumed_tail:
        raise MalformedError("control document", "its bitmap has the wrong length")
    return bits
