"""Options of `volcrypt kms`: made from the members of the requests, and read back into JSON.

Plaintext, ciphertext and key material come from `fileb://PATH` or `-` (standard input), never as
words of the command line, where every user of the host can read them; passwords from `file://PATH`
or `-`. Any other text may come from `file://PATH` too.
"""

import base64
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, get_args, get_origin

import click
import msgspec

from volcrypt.cli.session import Command
from volcrypt.cli.shorthand import parse_structure
from volcrypt.cli.times import read_time
from volcrypt.errors import InvalidArgumentError, KmsValidationError
from volcrypt.kms.protocol import parse_json

_FILE: Final = "file://"
_BYTES_FILE: Final = "fileb://"
_CONSTRAINT: Final = re.compile(
    r"Value (?P<value>.*?) at '(?P<member>\w+)[^']*' failed to satisfy constraint: Member must "
)
_PASSWORDS: Final = frozenset({"key_store_password"})


class KmsCommand(Command):
    """A command whose list options take several words, as in the aws command line:
    `--operations Decrypt Encrypt`. It has no arguments, so words without `--` are of such a list.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        lists = {
            name
            for parameter in self.params
            if isinstance(parameter, click.Option) and parameter.multiple
            for name in parameter.opts
        }
        return super().parse_args(ctx, _with_name_before_each(args, lists))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KmsValidationError as error:
            hint = error.hint or f"see '{ctx.command_path} --help'"
            raise KmsValidationError(as_typed(str(error)), hint=hint) from error


def _with_name_before_each(arguments: Sequence[str], lists: set[str]) -> list[str]:
    found: list[str] = []
    current: str | None = None
    has_value = False
    for argument in arguments:
        if argument.startswith("--"):
            current = argument if argument in lists else None
            has_value = False
        elif current is not None:
            if has_value:
                found.append(current)
            has_value = True
        found.append(argument)
    return found


def as_typed(text: str, *, names: Mapping[str, str] = MappingProxyType({})) -> str:
    """What a KMS says of members of a request, with the options that they come from; `names` are
    members that are arguments."""
    text = re.sub(r"^\d+ validation errors? detected: ", "", text)

    def typed(found: re.Match[str]) -> str:
        member = found["member"]
        name = names.get(member) or option_name(_snake_case(member))
        return f"{name} {found['value']}: it must "

    return _CONSTRAINT.sub(typed, text)


def option_name(member: str) -> str:
    """The option for a member of a request, by its name in Python."""
    return "--" + member.replace("_", "-")


def _snake_case(name: str) -> str:
    return re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", name)


def option_of(field: msgspec.structs.FieldInfo, text: str | None = None) -> click.Option:
    """The option for a member of a request; `text` is its help."""
    name = option_name(field.name)
    kind = without_none(field.type)
    if kind is bool:
        return click.Option([f"{name}/--no-{name[2:]}"], default=None, help=text)
    if kind is int:
        return click.Option([name], type=int, help=text)
    if get_origin(kind) is list:
        metavar = "TEXT ..." if get_args(kind)[0] is str else "NAME=VALUE,... ..."
        return click.Option([name], multiple=True, metavar=metavar, help=text)
    metavar = "TEXT"
    if kind is bytes or kind is bytearray:
        metavar = "fileb://PATH|-"
    elif field.name in _PASSWORDS:
        metavar = "file://PATH|-"
    elif kind is float:
        metavar = "TIME"
    elif get_origin(kind) is dict or is_struct(kind):
        metavar = "NAME=VALUE,..."
    return click.Option([name], metavar=metavar, help=text)


def without_none(kind: Any) -> Any:
    """T, of a `T | None`."""
    parts = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) not in (list, dict) and len(parts) == 1:
        return parts[0]
    return kind


def is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def value_of(field: msgspec.structs.FieldInfo, given: Any) -> Any:
    """What the option's value is in the request's JSON. Raises InvalidArgumentError, OSError."""
    kind = without_none(field.type)
    if kind is bytes or kind is bytearray:
        return base64.b64encode(read_blob(given)).decode()
    if field.name in _PASSWORDS:
        return _read_password(given)
    if get_origin(kind) is list:
        item = get_args(kind)[0]
        found: list[Any] = []
        for text in map(_read_text, given):
            value = text if item is str and not text.startswith("[") else parse_structure(text)
            found += value if isinstance(value, list) else [value]
        return found
    if not isinstance(given, str):
        return given
    text = _read_text(given)
    if get_origin(kind) is dict:
        return read_map(text)
    if kind is float:
        return read_time(text)
    if is_struct(kind):
        return parse_structure(text)
    return text


def read_blob(text: str) -> bytes:
    """The bytes that `fileb://PATH` or `-` names. Raises InvalidArgumentError and OSError."""
    if text == "-":
        return sys.stdin.buffer.read()
    if text.startswith(_BYTES_FILE):
        return Path(text.removeprefix(_BYTES_FILE)).read_bytes()
    raise InvalidArgumentError(
        "binary values are read from fileb://PATH or - only, never from the command line"
    )


def _read_password(text: str) -> str:
    if text == "-":
        return sys.stdin.readline().rstrip("\r\n")
    if text.startswith(_FILE):
        return _read_text(text).rstrip("\r\n")
    raise InvalidArgumentError(
        "passwords are read from file://PATH or - only, never from the command line"
    )


def _read_text(text: str) -> str:
    if not text.startswith(_FILE):
        return text
    path = Path(text.removeprefix(_FILE))
    try:
        return path.read_text()
    except UnicodeDecodeError:
        raise InvalidArgumentError(f"{path} is not a text file in UTF-8") from None


def read_map(text: str) -> dict[str, str]:
    """`{"a": "b"}` or the short form `a=b,c=d` of the aws command line."""
    if text.lstrip().startswith("{"):
        found = parse_json(text.encode(errors="surrogateescape"))
        if not all(isinstance(value, str) for value in found.values()):
            raise InvalidArgumentError("every value of the map must be a string")
        return found
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(separator and key for key, separator, _value in pairs):
        raise InvalidArgumentError(f"{text!r} is not of the form name=value,name=value")
    if len({key for key, _separator, _value in pairs}) < len(pairs):
        raise InvalidArgumentError(f"a name stands twice in {text!r}")
    return {key: value for key, _separator, value in pairs}
