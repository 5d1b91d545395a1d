"""What `encrypt` prints: the plan, and the report."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from volcrypt.cli.session import JsonValue, Session, print_fields
from volcrypt.cli.text import iso_time
from volcrypt.geometry import CHUNK_BYTES, format_size

if TYPE_CHECKING:
    from typing import TextIO

    from volcrypt.operations.destruction import OldData
    from volcrypt.operations.encrypt import EncryptionReport
    from volcrypt.operations.encrypt_plan import EncryptionPlan
    from volcrypt.operations.online import MigrationReport, WriteTimes


def plan_document(plan: "EncryptionPlan") -> JsonValue:
    """The plan as JSON."""
    return {
        "VolumeId": plan.record.volume_id,
        "Name": plan.record.name,
        "SizeBytes": plan.record.size_bytes,
        "DataBytes": plan.data_bytes,
        "DataBytesAtMost": plan.is_bound,
        "KeySource": "customer" if plan.kms_key is None else "kms",
        "KmsKeyId": plan.kms_key,
        "ResumesAt": plan.resumes_at,
        "Target": str(plan.target),
        "Steps": [
            {
                "Step": each.step,
                "ReadBytes": each.read_bytes,
                "WriteBytes": each.write_bytes,
                "ExpectedSeconds": round(each.seconds, 3),
            }
            for each in plan.steps
        ],
        "ExpectedSeconds": round(plan.seconds, 3),
        "ReadRate": plan.read_rate,
        "WriteRate": plan.write_rate,
        "Space": [
            {
                "Path": str(each.path),
                "NeededBytes": each.needed_bytes,
                "FreeBytes": each.free_bytes,
            }
            for each in plan.rooms
        ],
        "OldData": old_data_documents(plan.destroyed),
        "PlainSnapshots": plan.plain_snapshots,
        "DeletesPlainSnapshots": plan.deletes_snapshots,
        "StoresNotRead": plan.stores_not_read,
    }


def old_data_documents(found: "Sequence[OldData]") -> JsonValue:
    """Where unencrypted data is, as JSON."""
    return [
        {
            "What": each.what,
            "Path": str(each.path),
            "Method": each.method,
            "FileSystem": each.file_system,
            "Device": each.device,
            "Rotational": each.rotates,
            "Discards": each.discards,
            "Notes": each.notes,
        }
        for each in found
    ]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def print_plan(plan: "EncryptionPlan", stream: "TextIO") -> None:
    """The plan for people."""
    most = "at most " if plan.is_bound else ""
    name = plan.record.name or plan.record.volume_id
    begin = "" if plan.resumes_at is None else f", from step {plan.resumes_at} on"
    key = plan.kms_key or "a customer-provided key"
    amount = f"({most}{format_size(plan.data_bytes)} of data)"
    lines = [
        (f"encrypts {name} {amount}" if plan.is_plain else f"gives {name} {amount} a new data key")
        + f" under {key}{begin}:",
        *(
            f"  {number}. {each.what}"
            + (f", about {_duration(each.seconds)}" if each.seconds else "")
            for number, each in enumerate(plan.steps, start=1)
        ),
        f"expected time: {_duration(plan.seconds)}"
        + (
            f" (measured: reads {format_size(plan.read_rate)}/s, writes "
            f"{format_size(plan.write_rate)}/s)"
            if plan.read_rate and plan.write_rate
            else ""
        ),
        *(
            f"space at the peak: {most}{format_size(each.needed_bytes)} below {each.path}, "
            f"{format_size(each.free_bytes)} are free"
            + (": too little" if not most and each.free_bytes < each.needed_bytes else "")
            for each in plan.rooms
        ),
        f"the encrypted data goes to {plan.target}",
        *_old_lines(plan.destroyed),
    ]
    if plan.plain_snapshots:
        fate = "are deleted" if plan.deletes_snapshots else "stay (see --delete-plain-snapshots)"
        lines.append(f"unencrypted snapshots {', '.join(plan.plain_snapshots)} {fate}")
    if plan.stores_not_read:
        lines.append(f"these stores do not answer: {', '.join(plan.stores_not_read)}")
    print("\n".join(lines), file=stream, flush=True)


def _old_lines(found: "Sequence[OldData]") -> list[str]:
    lines = []
    said: set[str] = set()
    for each in found:
        lines.append(f"{each.what}, {each.path}: {each.method}")
        lines += [f"  note: {note}" for note in each.notes if note not in said]
        said.update(each.notes)
    return lines


def show_report(session: Session, report: "EncryptionReport") -> None:
    """The report, and on standard error what is left to do."""
    chunks = -(-report.data_bytes // CHUNK_BYTES)
    document = {
        "VolumeId": report.volume_id,
        "Name": report.name,
        "SizeBytes": report.size_bytes,
        "DataBytes": report.data_bytes,
        "DataChunks": chunks,
        "ContentDigest": report.content_digest,
        "DataPath": str(report.data_path),
        "OldVolumeId": report.old_volume_id,
        "OldVolumeName": report.old_volume_name,
        "OldData": old_data_documents(report.old_data),
        "KeySource": "customer" if report.kms_key_arn is None else "kms",
        "KmsKeyId": report.kms_key_arn,
        "DataKeyId": report.data_key_id,
        "VerifiedBytes": report.verified_bytes,
        "Seconds": report.seconds,
        "Steps": [
            {"Step": step, "Seconds": seconds} for step, seconds in report.step_seconds.items()
        ],
        "PlainSnapshotsLeft": report.plain_snapshots_left,
        "PlainSnapshotsDeleted": report.plain_snapshots_deleted,
        "StoresNotRead": report.stores_not_read,
    }
    kept = report.old_volume_name or report.old_volume_id
    old = f"kept as {kept}" if report.old_volume_kept else "removed"

    def text() -> None:
        print_fields(
            {
                "encrypted volume": f"{report.volume_id} ({report.name or 'no name'})",
                "key": report.kms_key_arn or "customer-provided",
                "data key": report.data_key_id,
                "converted": f"{format_size(report.data_bytes)} of "
                f"{format_size(report.size_bytes)}, {chunks} chunks",
                "content digest": report.content_digest,
                "compared": f"{format_size(report.verified_bytes)}, read back from the medium",
                "data": str(report.data_path),
                "old volume": f"{report.old_volume_id} is {old}",
                "time": f"{report.seconds:.1f} s ("
                + ", ".join(f"{step} {took:.1f}" for step, took in report.step_seconds.items())
                + ")",
            }
        )
        print("\n".join(_old_lines(report.old_data)))

    session.show(document, text)
    _warn(report)


def show_migration(session: Session, report: "MigrationReport") -> None:
    """The report of a volume that stayed what it is, under a new data key."""
    times, steps = report.times, report.step_seconds
    document = {
        "VolumeId": report.volume_id,
        "Name": report.name,
        "SizeBytes": report.size_bytes,
        "InUse": report.was_served,
        "KeySource": "customer" if report.kms_key_arn is None else "kms",
        "KmsKeyId": report.kms_key_arn,
        "DataKeyId": report.data_key_id,
        "OldDataKeyId": report.old_data_key_id,
        "CopiedBytes": report.copied_bytes,
        "Writes": None
        if times is None
        else {
            "Count": times.writes,
            "P50Microseconds": times.p50_us,
            "P99Microseconds": times.p99_us,
            "WorstMicroseconds": times.worst_us,
        },
        "OldData": old_data_documents(report.old_data),
        "FreedBytes": report.freed_bytes,
        "Runs": report.runs,
        "StartedAt": iso_time(report.started_at),
        "Seconds": report.seconds,
        "Steps": [
            {"Step": step, "Seconds": seconds} for step, seconds in report.step_seconds.items()
        ],
        "PlainSnapshotsLeft": report.plain_snapshots_left,
        "PlainSnapshotsDeleted": report.plain_snapshots_deleted,
        "StoresNotRead": report.stores_not_read,
    }

    def text() -> None:
        print_fields(
            {
                "encrypted volume": f"{report.volume_id} ({report.name or 'no name'})",
                "key": report.kms_key_arn or "customer-provided",
                "data key": report.data_key_id,
                "copied": f"{format_size(report.copied_bytes)}; "
                "compared with what was read back from the medium",
                "worst stall of a write": _worst_stall(times),
                "time": f"{report.seconds:.1f} s"
                + (f" in {report.runs} runs" if report.runs > 1 else "")
                + f" ({', '.join(f'{step} {took:.1f}' for step, took in steps.items())})",
            }
        )
        print("\n".join(_old_lines(report.old_data)))

    session.show(document, text)
    _warn(report)


def _worst_stall(times: "WriteTimes | None") -> str:
    """The worst is of all runs, the rest of the process that served last."""
    if times is None or not times.worst_us:
        return "nobody wrote"
    worst = f"{times.worst_us / 1000:.1f} ms"
    if not times.writes:
        return f"{worst} (before it was mounted last)"
    half, most = times.p50_us / 1000, times.p99_us / 1000
    return f"{worst} (half took {half:.1f} ms at most, 99 % {most:.1f} ms; {times.writes} writes)"


def _warn(report: "EncryptionReport | MigrationReport") -> None:
    if report.plain_snapshots_left:
        print(
            f"warning: unencrypted snapshots remain: {', '.join(report.plain_snapshots_left)}; "
            "delete them with 'volcrypt snapshot delete'",
            file=sys.stderr,
        )
    if report.stores_not_read:
        print(
            f"warning: these snapshot stores do not answer, and may hold unencrypted snapshots "
            f"too: {', '.join(report.stores_not_read)}",
            file=sys.stderr,
        )
