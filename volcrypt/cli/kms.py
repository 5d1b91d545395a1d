"""`volcrypt kms OPERATION`: the operations and options of `aws kms`, made from the request types.

Plaintext, ciphertext and key material come from `fileb://PATH` or `-` (standard input), never as
words of the command line, where every user of the host can read them.
"""

import base64
import sys
from pathlib import Path
from typing import Any, get_args, get_origin

import click
import msgspec

from volcrypt.cli.session import Command, Session, pass_session, print_fields, print_table
from volcrypt.cli.text import format_time
from volcrypt.errors import InvalidArgumentError
from volcrypt.kms.protocol import OPERATIONS, parse_json

SUMMARIES = {
    "CreateKey": "Make a KMS key; its material never leaves the HSM in the clear.",
    "DescribeKey": "Show everything about a key.",
    "ListKeys": "List the ids of all keys.",
    "EnableKey": "Let a disabled key be used again.",
    "DisableKey": "Keep a key from being used; open volumes stay open.",
    "GetKeyPolicy": "Show who may do what with a key.",
    "CreateAlias": "Give a key a name.",
    "UpdateAlias": "Give a name to another key.",
    "DeleteAlias": "Take a name away; the key stays.",
    "ListAliases": "List names and their keys.",
    "GenerateRandom": "Random bytes from the HSM.",
    "GenerateDataKey": "A new data key, in plaintext and encrypted.",
    "GenerateDataKeyWithoutPlaintext": "A new data key, encrypted only.",
    "Encrypt": "Encrypt up to 4096 bytes.",
    "Decrypt": "Decrypt what a key encrypted.",
    "GetParametersForImport": "Get what key material to be imported is wrapped with.",
    "ImportKeyMaterial": "Import key material that was made elsewhere.",
    "DeleteImportedKeyMaterial": "Delete imported key material; it can be imported again.",
    "CreateCustomKeyStore": "Set up another token for keys, of a configured cluster.",
    "DescribeCustomKeyStores": "Show custom key stores and whether they are connected.",
    "ConnectCustomKeyStore": "Log in to the token of a custom key store.",
    "DisconnectCustomKeyStore": "Log out of the token of a custom key store.",
    "UpdateCustomKeyStore": "Change name, password or cluster of a custom key store.",
    "DeleteCustomKeyStore": "Forget a custom key store that has no keys.",
    "ReEncrypt": "Move a ciphertext to another key or context; nobody sees the plaintext.",
}
OPTION_HELP = {
    "key_id": "Key id, key ARN, alias or alias ARN.",
    "target_key_id": "Key id or key ARN.",
    "encryption_context": "What the ciphertext is bound to; needed again to decrypt.",
    "dry_run": "Check whether the request would succeed, and do nothing.",
    "plaintext": "What to encrypt; never a word of the command line.",
    "ciphertext_blob": "The ciphertext.",
    "marker": "Go on from where the last page ended (its NextMarker).",
    "limit": "At most so many on a page.",
}
LISTS = {"Keys", "Aliases", "Grants", "Tags", "Rotations", "PolicyNames"}


def read_blob(text: str) -> bytes:
    """The bytes that `fileb://PATH` or `-` names. Raises InvalidArgumentError and OSError."""
    if text == "-":
        return sys.stdin.buffer.read()
    if text.startswith("fileb://"):
        return Path(text.removeprefix("fileb://")).read_bytes()
    raise InvalidArgumentError(
        "binary values are read from fileb://PATH or - only, never from the command line"
    )


def read_map(text: str) -> dict[str, str]:
    """`{"a": "b"}` or the short form `a=b,c=d` of the aws command line."""
    if text.lstrip().startswith("{"):
        found = parse_json(text.encode())
        if not all(isinstance(value, str) for value in found.values()):
            raise InvalidArgumentError("every value of the map must be a string")
        return found
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(separator and key for key, separator, _value in pairs):
        raise InvalidArgumentError(f"{text!r} is not of the form name=value,name=value")
    if len({key for key, _separator, _value in pairs}) < len(pairs):
        raise InvalidArgumentError(f"a name stands twice in {text!r}")
    return {key: value for key, _separator, value in pairs}


def _option(field: msgspec.structs.FieldInfo) -> click.Option:
    name = "--" + field.name.replace("_", "-")
    kind = _without_none(field.type)
    text = OPTION_HELP.get(field.name)
    if kind is bool:
        return click.Option([f"{name}/--no-{name[2:]}"], default=None, help=text)
    if kind is int:
        return click.Option([name], type=int, help=text)
    if get_origin(kind) is list:
        return click.Option([name], multiple=True, help=text)
    metavar = "TEXT"
    if kind is bytes or kind is bytearray:
        metavar = "fileb://PATH|-"
    elif get_origin(kind) is dict:
        metavar = "NAME=VALUE,..."
    return click.Option([name], metavar=metavar, help=text)


def _without_none(kind: Any) -> Any:
    parts = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) not in (list, dict) and len(parts) == 1:
        return parts[0]
    return kind


def _value(field: msgspec.structs.FieldInfo, given: Any) -> Any:
    """What the option's value is in the request's JSON."""
    kind = _without_none(field.type)
    if kind is bytes or kind is bytearray:
        return base64.b64encode(read_blob(given)).decode()
    if get_origin(kind) is dict:
        return read_map(given)
    if get_origin(kind) is list:
        if get_args(kind)[0] is str:
            return list(given)
        return [_structured(text) for text in given]
    return given


def _structured(text: str) -> dict[str, str]:
    """One structure of a list, such as a tag: TagKey=a,TagValue=b, or JSON."""
    return read_map(text)


def _make_command(aws_name: str, name: str) -> Command:
    request_type = OPERATIONS[aws_name].request
    fields = msgspec.structs.fields(request_type)

    @pass_session
    def run(session: Session, /, cli_input_json: Path | None, **given: Any) -> None:
        request: dict[str, Any] = {}
        if cli_input_json is not None:
            request.update(_read_input(cli_input_json))
        for field in fields:
            value = given[field.name]
            if value is not None and value != ():
                request[field.encode_name] = _value(field, value)
        home = session.home
        response = home.kms.call(home.caller, aws_name, request)
        if aws_name == "CreateKey":
            metadata = response["KeyMetadata"]
            shown = {key: _text(key, value) for key, value in metadata.items()}
            session.show_created(metadata["KeyId"], response, shown)
        else:
            session.show(response, lambda: _print_response(response))

    return Command(
        name,
        callback=run,
        params=[
            *map(_option, fields),
            click.Option(
                ["--cli-input-json"],
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help="File with the request as JSON; options win over it.",
            ),
        ],
        help=f"{SUMMARIES[aws_name]} ({aws_name})",
        short_help=SUMMARIES[aws_name],
    )


def _read_input(path: Path) -> dict[str, Any]:
    return parse_json(path.read_bytes())


def _print_response(response: dict[str, Any]) -> None:
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
    if name.endswith("Date") and isinstance(value, int | float):
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
