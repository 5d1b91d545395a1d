"""What an entry of the table is, and examples of what is described by types."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec import inspect as kinds

from volcrypt.errors import FormatError, IntegrityError, VolcryptError

STORED: Final = (FormatError, IntegrityError)
"""What may come of bytes that somebody else may have changed."""
REFUSED: Final = (VolcryptError,)
"""What may come of what people, or processes, ask for."""


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """`decode` takes bytes and gives anything, or one of `refusals`; no other error. `seeds` are
    bytes that it takes. `reseal` makes checksums and seals of changed bytes hold again; where there
    is one, what is changed without it must be refused, if `sealed`."""

    decode: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    refusals: tuple[type[Exception], ...] = STORED
    reseal: Callable[[bytes], bytes] | None = None
    sealed: bool = False
    covers: tuple[str, ...] = field(default=())
    """Other functions that read what comes to this one, by the names of `test_decoders.py`."""


def text(function: Callable[[str], object]) -> Callable[[bytes], object]:
    """A decoder of text as one of bytes, as they come from a command line."""
    return lambda data: function(data.decode(errors="surrogateescape"))


def example(kind: Any) -> Any:
    """A value that has this type, as JSON has it."""
    return _example(kinds.type_info(kind))


def example_line(kind: Any) -> bytes:
    return json.dumps(example(kind)).encode() + b"\n"


def _example(info: kinds.Type) -> Any:
    match info:
        case kinds.StructType():
            members = {f.encode_name: _example(f.type) for f in info.fields}
            tag = {info.tag_field: info.tag} if info.tag_field else {}
            return {**tag, **members}
        case kinds.DataclassType():
            return {each.encode_name: _example(each.type) for each in info.fields}
        case kinds.UnionType():
            return _example(next(t for t in info.types if not isinstance(t, kinds.NoneType)))
        case kinds.BoolType():
            return True
        case kinds.IntType():
            return 7
        case kinds.FloatType():
            return 1.5
        case kinds.BytesType() | kinds.ByteArrayType():
            return "AAEC"
        case kinds.DictType():
            return {_example(info.key_type): _example(info.value_type)}
        case kinds.ListType() | kinds.VarTupleType():
            return [_example(info.item_type)]
        case kinds.TupleType():
            return [_example(each) for each in info.item_types]
        case kinds.LiteralType():
            return info.values[0]
        case kinds.EnumType():
            return next(iter(info.cls)).value
        case kinds.NoneType():
            return None
    return "text"


def union_examples(union: Any) -> tuple[bytes, ...]:
    """A line for each member of a union of structs."""
    info = kinds.type_info(union)
    members = info.types if isinstance(info, kinds.UnionType) else (info,)
    return tuple(json.dumps(_example(each)).encode() + b"\n" for each in members)
