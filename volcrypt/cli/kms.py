"""`volcrypt kms OPERATION`: operations and options of `aws kms`, made from the request types."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click
import msgspec

from volcrypt.cli.confirmation import confirm
from volcrypt.cli.kms_options import KmsCommand, option_name, option_of, value_of
from volcrypt.cli.kms_texts import SUMMARIES, help_of
from volcrypt.cli.serve import serve
from volcrypt.cli.session import Session, pass_session, print_fields, print_table
from volcrypt.cli.text import format_time
from volcrypt.errors import InvalidArgumentError, InvalidArnError
from volcrypt.kms.protocol import OPERATIONS, parse_json
from volcrypt.kms.reference import TAKE_ALIAS

if TYPE_CHECKING:
    from volcrypt.operations.home import Home


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What an operation does to what is under its key, and how it is asked for."""

    fate: str
    deed: str
    question: str
    """With the key's ARN, and the day on which its waiting time is over."""


LISTS = (
    "Keys",
    "Aliases",
    "Grants",
    "Tags",
    "Rotations",
    "PolicyNames",
    "CustomKeyStores",
)
LOSSES = MappingProxyType(
    {
        "ScheduleKeyDeletion": Loss(
            fate="dies with the key",
            deed="deleting a key",
            question="delete {} on {}, when its waiting time is over?",
        ),
        "DeleteImportedKeyMaterial": Loss(
            fate="cannot be read until the same material is imported again",
            deed="deleting key material",
            question="delete the imported material of {} now?",
        ),
    }
)
"""What needs a confirmation."""


def _make_command(aws_name: str, name: str) -> KmsCommand:
    fields = msgspec.structs.fields(OPERATIONS[aws_name].request)

    @pass_session
    def run(
        session: Session, /, cli_input_json: str | None, yes: bool = False, **given: Any
    ) -> None:
        from volcrypt.operations.vault import call

        request: dict[str, Any] = {}
        if cli_input_json is not None:
            request.update(_read_input(Path(cli_input_json.removeprefix("file://"))))
        for field in fields:
            value = given[field.name]
            if value is not None and value != ():
                request[field.encode_name] = _value_of(field, value)
        _check_complete(fields, request)
        home = session.key_home
        if aws_name in LOSSES and not request.get("DryRun") and not _is_refused(request):
            _confirm(LOSSES[aws_name], home, request, yes=yes)
        try:
            response = call(home.kms, home.caller, aws_name, request)
        except InvalidArnError as error:
            key = str(request.get("KeyId", ""))
            if aws_name in TAKE_ALIAS or "alias/" not in key:
                raise
            # The KMS's own text, which other KMSs have too, does not say what to do.
            raise InvalidArnError(
                f"{kebab(aws_name)} takes the id or ARN of a key, and {key} is an alias",
                hint=f"'volcrypt kms describe-key --key-id {key}' shows the id of its key",
            ) from error
        if aws_name == "CreateKey":
            metadata = response["KeyMetadata"]
            shown = {key: _text(key, value) for key, value in metadata.items()}
            session.show_created(metadata["KeyId"], response, shown)
        else:
            session.show(response, lambda: _print_response(response))

    extra = [
        click.Option(
            ["--cli-input-json"],
            metavar="FILE",
            help="File with the request as JSON; options win over it.",
        )
    ]
    if aws_name in LOSSES:
        extra.append(
            click.Option(
                ["--yes"], is_flag=True, help="Do not ask; needed where there is no terminal."
            )
        )
    summary = SUMMARIES.get(aws_name, "")
    return KmsCommand(
        name,
        callback=run,
        params=[*(option_of(field, help_of(aws_name, field.name)) for field in fields), *extra],
        help=f"{summary} ({aws_name})",
        short_help=summary,
    )


def _value_of(field: msgspec.structs.FieldInfo, value: Any) -> Any:
    try:
        return value_of(field, value)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{option_name(field.name)}: {error}") from error


def _check_complete(
    fields: Sequence[msgspec.structs.FieldInfo], request: Mapping[str, Any]
) -> None:
    """Raises UsageError, which names options as they are typed; the KMS would name its members."""
    missing = [
        f"'{option_name(field.name)}'"
        for field in fields
        if field.required and request.get(field.encode_name) is None
    ]
    if missing:
        raise click.UsageError(f"missing option{'s' * (len(missing) > 1)} {', '.join(missing)}")


def _read_input(path: Path) -> dict[str, Any]:
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise InvalidArgumentError(f"cannot read {path}: {error.strerror}") from error


def _is_refused(request: dict[str, Any]) -> bool:
    """Whether the KMS says no in any case: then nobody is asked before."""
    from volcrypt.kms.deletion_operations import LONGEST_WINDOW_DAYS, SHORTEST_WINDOW_DAYS

    days = request.get("PendingWindowInDays", SHORTEST_WINDOW_DAYS)
    return "alias/" in str(request.get("KeyId", "")) or not (
        isinstance(days, int) and SHORTEST_WINDOW_DAYS <= days <= LONGEST_WINDOW_DAYS
    )


def _confirm(loss: Loss, home: "Home", request: dict[str, Any], *, yes: bool) -> None:
    """Show what is lost with the key, and ask; InvalidArgumentError where nobody can answer."""
    from volcrypt.kms.clock import host_time
    from volcrypt.kms.deletion_operations import LONGEST_WINDOW_DAYS
    from volcrypt.kms.model import DAY_SECONDS
    from volcrypt.operations.key_use import find_key_use

    doomed = find_key_use(home, str(request.get("KeyId", "")))
    for line in doomed.lines(loss.fate):
        print(line, file=sys.stderr)
    if not yes:
        days = request.get("PendingWindowInDays", LONGEST_WINDOW_DAYS)
        day = format_time(host_time() + days * DAY_SECONDS).partition(" ")[0]
        confirm(loss.deed, loss.question.format(doomed.key_arn, day))


def _print_response(response: dict[str, Any]) -> None:
    if response.get("NextMarker"):
        print(f"note: there is more; go on with --marker {response['NextMarker']}", file=sys.stderr)
    rows = next((response[key] for key in LISTS if key in response), None)
    if rows is not None and all(isinstance(row, dict) for row in rows):
        columns = list(dict.fromkeys(key for row in rows for key in row))
        if columns:
            print_table(columns, [[_text(key, row.get(key)) for key in columns] for row in rows])
        return
    flat = response.get("KeyMetadata", response)
    if flat:
        print_fields({key: _text(key, value) for key, value in flat.items()})


def _text(name: str, value: Any) -> str:
    """How the member `name` of a response looks to a person."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_text(name, item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={_text(key, item)}" for key, item in value.items())
    if name.endswith(("Date", "ValidTo")) and isinstance(value, int | float):
        return format_time(value)
    return str(value)


def kebab(aws_name: str) -> str:
    """CreateKey -> create-key."""
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in aws_name).lstrip("-")


@click.group()
def kms() -> None:
    """Key management. Operations and options are those of 'aws kms'."""


for _aws_name in OPERATIONS:
    kms.add_command(_make_command(_aws_name, kebab(_aws_name)))
kms.add_command(serve)
