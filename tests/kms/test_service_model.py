"""Our requests beside the service model of the AWS KMS that botocore carries.

Whatever the model knows of an operation that we answer, we know as well, or refuse by name. Where
we are another on purpose, it is written down here with the reason.
"""

from types import UnionType
from typing import Any, Final, get_args, get_origin

import botocore.session
import msgspec
import pytest
from botocore.model import ListShape, ServiceModel, Shape, StringShape, StructureShape

from volcrypt.errors import UnknownOperationError, UnsupportedOperationError
from volcrypt.kms.messages.base import Message
from volcrypt.kms.messages.limits import MEMBER_LIMITS, UNSHOWN_MEMBERS, Limits
from volcrypt.kms.protocol import ALL_OPERATIONS, OPERATIONS, decode_request, find_operation


def _model() -> ServiceModel:
    model: ServiceModel = botocore.session.get_session().get_service_model("kms")
    return model


MODEL: Final = _model()
UNSUPPORTED_MEMBERS: Final = {
    "Recipient",  # Nitro enclaves
    "DryRunModifiers",  # a dry run looks at the ciphertext here
    "ResourceOwners",  # keys shared by another account through RAM
    "XksKeyId",  # external key stores
    "XksProxyUriEndpoint",
    "XksProxyUriPath",
    "XksProxyVpcEndpointServiceName",
    "XksProxyVpcEndpointServiceOwner",
    "XksProxyAuthenticationCredential",
    "XksProxyConnectivity",
}
NOT_YET: Final = {"GrantTokens", "CustomKeyStoreId"}
"""Refused by the operations that do not have them yet."""
REQUIRED_HERE: Final = {
    ("Decrypt", "CiphertextBlob"),  # absent only with DryRunModifiers
    ("ReEncrypt", "CiphertextBlob"),
}
NARROWER_HERE: Final = {
    # What the documentation says; the model has one LimitType for all.
    ("ListAliases", "Limit"): (1, 100),
    ("ListGrants", "Limit"): (1, 100),
    ("ListRetirableGrants", "Limit"): (1, 100),
    ("ListResourceTags", "Limit"): (1, 50),
}
NEVER_ANSWERED: Final = {
    "CiphertextForRecipient",  # Nitro enclaves
}
CASES: Final = [
    (name, member, shape)
    for name in sorted(OPERATIONS)
    for member, shape in MODEL.operation_model(name).input_shape.members.items()
]
TYPES: Final[dict[str, tuple[object, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "blob": (bytes, bytearray),
    "timestamp": (float,),
    "map": (dict,),
    "list": (list,),
}


def field_of(kind: type[Message], member: str) -> msgspec.structs.FieldInfo | None:
    fields = msgspec.structs.fields(kind)
    return next((field for field in fields if field.encode_name == member), None)


def limits_of(kind: type[Message], name: str) -> Limits:
    return kind.LIMITS.get(name, MEMBER_LIMITS.get(name, Limits()))


def without_none(kind: Any) -> Any:
    if get_origin(kind) is UnionType or isinstance(kind, UnionType):
        (kind,) = [part for part in get_args(kind) if part is not type(None)]
    return kind


def test_the_names_of_all_operations() -> None:
    assert set(MODEL.operation_names) == ALL_OPERATIONS
    assert OPERATIONS.keys() <= ALL_OPERATIONS
    for name in ALL_OPERATIONS - OPERATIONS.keys():
        with pytest.raises(UnsupportedOperationError, match=f"the operation {name} is not"):
            find_operation(name)
    for name in ("Encrypts", "encrypt", "", "x\ny"):
        with pytest.raises(UnknownOperationError):
            find_operation(name)


def test_every_member_of_ours_is_one_of_the_model() -> None:
    for name, operation in OPERATIONS.items():
        ours = {field.encode_name for field in msgspec.structs.fields(operation.request)}
        assert ours <= MODEL.operation_model(name).input_shape.members.keys(), name


@pytest.mark.parametrize(("name", "member", "shape"), CASES, ids=lambda value: str(value)[:40])
def test_every_member_of_the_model(name: str, member: str, shape: Shape) -> None:
    request_type = OPERATIONS[name].request
    field = field_of(request_type, member)
    if field is None:
        assert member in UNSUPPORTED_MEMBERS | NOT_YET
        with pytest.raises(UnsupportedOperationError, match=f"the member {member} is not"):
            decode_request(request_type, {member: "x"})
        return
    model = MODEL.operation_model(name).input_shape
    assert field.required == (member in model.required_members or (name, member) in REQUIRED_HERE)
    check_shape(field, shape, limits_of(request_type, field.name), (name, member))


def check_shape(
    field: msgspec.structs.FieldInfo, shape: Shape, limits: Limits, where: tuple[str, str]
) -> None:
    kind = without_none(field.type)
    if isinstance(shape, StructureShape):
        check_elements(kind, shape, limits)
        return
    assert (get_origin(kind) or kind) in TYPES[shape.type_name]
    bounds = (shape.metadata.get("min"), shape.metadata.get("max"))
    assert (limits.minimum, limits.maximum) == NARROWER_HERE.get(where, bounds)
    assert limits.pattern == shape.metadata.get("pattern")
    if isinstance(shape, StringShape):
        assert set(limits.choices or ()) == set(shape.enum)
    if isinstance(shape, ListShape):
        check_elements(get_args(kind)[0], shape.member, limits.each or Limits())


def check_elements(kind: Any, shape: Shape, each: Limits) -> None:
    if isinstance(shape, StructureShape):
        for member, member_shape in shape.members.items():
            field = field_of(kind, member)
            assert field is not None, member
            assert field.required == (member in shape.required_members)
            check_shape(field, member_shape, limits_of(kind, field.name), (shape.name, member))
        return
    assert kind is str
    bounds = (shape.metadata.get("min"), shape.metadata.get("max"))
    assert (each.minimum, each.maximum) == bounds
    assert each.pattern == shape.metadata.get("pattern")
    assert set(each.choices or ()) == set(shape.enum)


def test_every_answer_has_the_members_of_the_model() -> None:
    for name, operation in OPERATIONS.items():
        (base,) = operation.request.__orig_bases__  # type: ignore[attr-defined]
        (response_type,) = get_args(base)
        shape = MODEL.operation_model(name).output_shape
        members = shape.members if shape is not None else {}
        ours = {field.encode_name for field in msgspec.structs.fields(response_type)}
        assert ours <= members.keys(), name
        assert members.keys() - ours <= NEVER_ANSWERED, name


def test_sensitive_members_are_in_no_text() -> None:
    for name, member, shape in CASES:
        field = field_of(OPERATIONS[name].request, member)
        if field is not None and shape.metadata.get("sensitive"):
            assert field.name in UNSHOWN_MEMBERS
