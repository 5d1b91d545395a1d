"""Requests and responses: names on the wire, limits, texts, secrets."""

from typing import Any

import pytest

from volcrypt.errors import (
    KmsError,
    KmsValidationError,
    SerializationError,
    UnsupportedOperationError,
)
from volcrypt.kms import protocol
from volcrypt.kms.messages.aliases import CreateAliasRequest, ListAliasesRequest
from volcrypt.kms.messages.base import Request
from volcrypt.kms.messages.data import (
    DecryptRequest,
    EncryptRequest,
    GenerateDataKeyRequest,
    GenerateDataKeyResponse,
    GenerateRandomRequest,
)
from volcrypt.kms.messages.keys import CreateKeyRequest, ListKeysRequest
from volcrypt.kms.messages.principals import PRINCIPAL_OPERATIONS
from volcrypt.kms.messages.tags import UntagResourceRequest
from volcrypt.kms.messages.volume_settings import VOLUME_SETTINGS_OPERATIONS
from volcrypt.kms.protocol import (
    HOME_OPERATIONS,
    OPERATIONS,
    audit_parameters,
    check_limits,
    decode_request,
    encode_response,
    parse_json,
    snake_case,
)
from volcrypt.kms.service import KmsService

SECRET = bytearray(b"very secret text")


def test_every_operation_has_its_method_and_its_names() -> None:
    assert not OPERATIONS.keys() & PRINCIPAL_OPERATIONS.keys()
    assert not OPERATIONS.keys() & VOLUME_SETTINGS_OPERATIONS.keys()
    for name, operation in HOME_OPERATIONS.items():
        assert callable(getattr(KmsService, snake_case(name)))
        assert operation.request.__name__ == f"{name}Request"


def test_requests_are_read_by_their_names_on_the_wire() -> None:
    request = decode_request(
        EncryptRequest,
        {"KeyId": "k", "Plaintext": "c2VjcmV0", "EncryptionContext": {"a": "b"}, "DryRun": True},
    )
    assert request == EncryptRequest(
        key_id="k", plaintext=bytearray(b"secret"), encryption_context={"a": "b"}, dry_run=True
    )


def test_responses_are_written_by_their_names_on_the_wire() -> None:
    response = GenerateDataKeyResponse(
        ciphertext_blob=b"blob", plaintext=bytearray(b"secret"), key_id="k", key_material_id="m"
    )
    assert encode_response(response) == {
        "CiphertextBlob": "YmxvYg==",
        "Plaintext": "c2VjcmV0",
        "KeyId": "k",
        "KeyMaterialId": "m",
    }


@pytest.mark.parametrize(
    ("members", "error", "text"),
    [
        ({"KeyId": 1}, SerializationError, "NUMBER_VALUE can not be converted to a String"),
        ({"KeyId": True}, SerializationError, "TRUE_VALUE can not be converted to a String"),
        (
            {"KeyId": ["k"]},
            SerializationError,
            "Start of structure or map found where not expected.",
        ),
        (
            {"KeyId": "k", "Plaintext": 1},
            SerializationError,
            "NUMBER_VALUE can not be converted to a Blob",
        ),
        (
            {"KeyId": "k", "Plaintext": "*secret*"},
            SerializationError,
            "'plaintext' can not be converted to a Blob",
        ),
        (
            {"KeyId": "k", "DryRun": "secret"},
            SerializationError,
            "STRING_VALUE can not be converted to a Boolean",
        ),
        (
            {"EncryptionContext": {"a": 1}},
            SerializationError,
            "NUMBER_VALUE can not be converted to a String",
        ),
        (
            {"EncryptionContext": {"a": None}},
            SerializationError,
            "NULL_VALUE can not be converted to a String",
        ),
        (
            {"EncryptionContext": "secret"},
            SerializationError,
            "Expected map or null at 'encryptionContext'",
        ),
        ({"Recipient": {}}, UnsupportedOperationError, "the member Recipient is not supported"),
        ({"x\ny": 1}, UnsupportedOperationError, "the member of that name is not supported"),
    ],
)
def test_what_does_not_fit_is_refused_without_its_value(
    members: dict[str, object], error: type[KmsError], text: str
) -> None:
    with pytest.raises(error) as raised:
        decode_request(EncryptRequest, members)
    assert str(raised.value) == text


def test_numbers_and_lists_that_are_none() -> None:
    with pytest.raises(SerializationError, match="STRING_VALUE can not be converted to an Integer"):
        decode_request(ListKeysRequest, {"Limit": "1"})
    with pytest.raises(SerializationError, match="FALSE_VALUE can not be converted to an Integer"):
        decode_request(ListKeysRequest, {"Limit": False})
    wrong: list[object] = [{}, "x"]
    for tags in wrong:
        with pytest.raises(SerializationError, match="Expected list or null at 'tags'"):
            decode_request(CreateKeyRequest, {"Tags": tags})
    wrong = [None, "x", []]
    for tag in wrong:
        with pytest.raises(SerializationError, match="Expected structure or null at 'tags'"):
            decode_request(CreateKeyRequest, {"Tags": [tag]})
    with pytest.raises(UnsupportedOperationError, match="the member Key is not supported"):
        decode_request(CreateKeyRequest, {"Tags": [{"Key": "a"}]})


def test_null_is_an_absent_member() -> None:
    members = {"KeyId": "k", "Plaintext": "AA==", "EncryptionContext": None, "Recipient": None}
    assert decode_request(EncryptRequest, members) == EncryptRequest(
        key_id="k", plaintext=bytearray(1)
    )


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(KmsValidationError) as raised:
        decode_request(EncryptRequest, {"KeyId": None})
    assert str(raised.value) == (
        "2 validation errors detected: "
        "Value null at 'keyId' failed to satisfy constraint: Member must not be null; "
        "Value null at 'plaintext' failed to satisfy constraint: Member must not be null"
    )
    with pytest.raises(KmsValidationError) as raised:
        decode_request(CreateAliasRequest, {"AliasName": "!" * 257})
    assert str(raised.value) == (
        f"3 validation errors detected: Value '{'!' * 257}' at 'aliasName' failed to satisfy "
        "constraint: Member must have length less than or equal to 256; "
        f"Value '{'!' * 257}' at 'aliasName' failed to satisfy "
        "constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$; "
        "Value null at 'targetKeyId' failed to satisfy constraint: Member must not be null"
    )


def test_members_of_structures_in_lists() -> None:
    tags = [{"TagKey": "a", "TagValue": "v" * 257}, {"TagKey": "", "TagValue": None}]
    with pytest.raises(KmsValidationError) as raised:
        decode_request(CreateKeyRequest, {"Tags": tags})
    assert str(raised.value) == (
        f"3 validation errors detected: Value '{'v' * 257}' at 'tags.1.member.tagValue' failed to "
        "satisfy constraint: Member must have length less than or equal to 256; "
        "Value '' at 'tags.2.member.tagKey' failed to satisfy constraint: "
        "Member must have length greater than or equal to 1; "
        "Value null at 'tags.2.member.tagValue' failed to satisfy constraint: "
        "Member must not be null"
    )


def test_elements_of_lists() -> None:
    with pytest.raises(KmsValidationError) as raised:
        check_limits(UntagResourceRequest(key_id="k", tag_keys=["a", ""]))
    assert str(raised.value) == (
        "1 validation error detected: Value '[a, ]' at 'tagKeys' failed to satisfy constraint: "
        "Member must satisfy constraint: [Member must have length less than or equal to 128, "
        "Member must have length greater than or equal to 1]"
    )


def test_a_text_does_not_grow_with_what_it_refuses() -> None:
    with pytest.raises(KmsValidationError) as raised:
        check_limits(CreateKeyRequest(description="x" * 100_000))
    assert len(str(raised.value)) < 2300


@pytest.mark.parametrize(
    ("request_", "value", "rule"),
    [
        (
            EncryptRequest(key_id="k", plaintext=bytearray(4097)),
            "Value at 'plaintext'",
            "have length less than or equal to 4096",
        ),
        (
            EncryptRequest(key_id="k", plaintext=bytearray()),
            "Value at 'plaintext'",
            "have length greater than or equal to 1",
        ),
        (
            DecryptRequest(ciphertext_blob=bytes(6145)),
            "Value at 'ciphertextBlob'",
            "have length less than or equal to 6144",
        ),
        (
            GenerateRandomRequest(number_of_bytes=1025),
            "Value '1025' at 'numberOfBytes'",
            "have value less than or equal to 1024",
        ),
        (
            ListKeysRequest(limit=0),
            "Value '0' at 'limit'",
            "have value greater than or equal to 1",
        ),
        (
            ListAliasesRequest(limit=101),
            "Value '101' at 'limit'",
            "have value less than or equal to 100",
        ),
        (
            GenerateDataKeyRequest(key_id="k", key_spec="AES_257"),
            "Value 'AES_257' at 'keySpec'",
            "satisfy enum value set: [AES_256, AES_128]",
        ),
        (
            CreateKeyRequest(key_spec="HMAC_random"),
            "Value 'HMAC_random' at 'keySpec'",
            (
                "satisfy enum value set: [RSA_2048, ECC_NIST_P384, ECC_NIST_P256, ECC_NIST_P521, "
                "HMAC_384, RSA_3072, ECC_SECG_P256K1, RSA_4096, SYMMETRIC_DEFAULT, HMAC_256, "
                "HMAC_224, HMAC_512]"
            ),
        ),
        (
            CreateKeyRequest(key_usage="RANDOM"),
            "Value 'RANDOM' at 'keyUsage'",
            "satisfy enum value set: [ENCRYPT_DECRYPT, SIGN_VERIFY, GENERATE_VERIFY_MAC]",
        ),
        (
            CreateAliasRequest(alias_name="alias/a b", target_key_id="k"),
            "Value 'alias/a b' at 'aliasName'",
            "satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$",
        ),
    ],
)
def test_limits_with_the_texts_of_aws(request_: Request[Any], value: str, rule: str) -> None:
    with pytest.raises(KmsValidationError) as raised:
        check_limits(request_)
    assert str(raised.value) == (
        f"1 validation error detected: {value} failed to satisfy constraint: Member must {rule}"
    )


def test_text_without_a_form_in_utf8_is_refused() -> None:
    with pytest.raises(KmsValidationError, match="'keyId' is not valid Unicode"):
        check_limits(DecryptRequest(ciphertext_blob=b"x", key_id="\ud800"))


def test_what_is_at_the_limit_passes() -> None:
    check_limits(EncryptRequest(key_id="k", plaintext=bytearray(4096)))
    check_limits(GenerateRandomRequest(number_of_bytes=1024))
    check_limits(ListKeysRequest(limit=1000))


def test_plaintext_is_not_shown() -> None:
    request = EncryptRequest(key_id="k", plaintext=SECRET)
    response = GenerateDataKeyResponse(
        ciphertext_blob=b"", plaintext=SECRET, key_id="k", key_material_id="m"
    )
    for text in (repr(request), str(response), f"{response}", str(response.__rich_repr__())):
        assert "secret" not in text
        assert "<redacted>" in text


def test_audit_parameters_hold_neither_plaintext_nor_blob() -> None:
    request = EncryptRequest(key_id="k", plaintext=SECRET, encryption_context={"a": "b"})
    assert audit_parameters(request) == {
        "keyId": "k",
        "encryptionContext": {"a": "b"},
        "encryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "dryRun": False,
    }
    assert "ciphertextBlob" not in audit_parameters(DecryptRequest(ciphertext_blob=b"x"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b'{"a": 1, "a": 2}',
        b'{"EncryptionContext": {"a": "1", "a": "2"}}',
        b"\xff",
        b"[" * 200_000,
        b" " * (protocol.MAX_JSON_BYTES + 1),
    ],
)
def test_json_that_is_refused(data: bytes) -> None:
    with pytest.raises(SerializationError):
        parse_json(data)


def test_json_that_is_read() -> None:
    assert parse_json(b'{"KeyId": "k", "EncryptionContext": {"a": "b"}}') == {
        "KeyId": "k",
        "EncryptionContext": {"a": "b"},
    }


def test_half_a_surrogate_pair_names_no_member() -> None:
    members = parse_json(b'{"KeyId": "alias/a", "\\ud800": 1}')
    with pytest.raises(UnsupportedOperationError, match="the member of that name"):
        decode_request(OPERATIONS["DescribeKey"].request, members)
