"""From an HTTP request to the answer, without sockets."""

import base64
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.access_keys import OTHER_KEY, OTHER_SECRET, USER_KEY, USER_SECRET
from tests.fakes.kms import ACCOUNT
from tests.kms.policies import allow, deny, document, when
from tests.wire.in_process import Wire, request, wire_on
from tests.wire.signing import ACCESS_KEY, signed
from volcrypt.errors import HsmUnavailableError
from volcrypt.kms.protocol import ALL_OPERATIONS
from volcrypt.wire.app import BodyBudget
from volcrypt.wire.flood import FloodGuard

FORM = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
UNREADABLE = when("Bool", "aws:SecureTransport", "false")
IDENTITY = b"Action=GetCallerIdentity&Version=2011-06-15"


def test_a_request_and_its_answer(wire: Wire) -> None:
    key_id = wire.kms.new_key()
    made = wire.send(request("GenerateDataKey", {"KeyId": key_id, "NumberOfBytes": 64}))[0]
    assert made.status == 200
    assert made.headers["content-type"] == "application/x-amz-json-1.1"
    assert re.fullmatch(r"[0-9a-f-]{36}", made.headers["x-amzn-requestid"])
    opened = wire.send(request("Decrypt", {"CiphertextBlob": made.json["CiphertextBlob"]}))[0]
    assert opened.json["Plaintext"] == made.json["Plaintext"]
    assert len(base64.b64decode(opened.json["Plaintext"])) == 64


def test_who_asked_is_on_record(wire: Wire) -> None:
    headers = {
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": "TrentService.ListKeys",
        "User-Agent": "test/1",
    }
    got = wire.send(signed(headers=headers, body=b"{}"))[0]
    assert got.status == 200
    record = wire.kms.records()[-1]
    assert record.request_id == got.headers["x-amzn-requestid"]
    assert (record.source_ip_address, record.user_agent) == ("192.0.2.7", "test/1")


def test_policies_know_whether_others_can_read_along(wire: Wire) -> None:
    key_id = wire.kms.new_key()
    secure_only = deny("*", Action="kms:DescribeKey", Condition=UNREADABLE)
    policy = document([allow(f"arn:aws:iam::{ACCOUNT}:root"), secure_only])
    put = {"KeyId": key_id, "Policy": policy}
    assert wire.send(request("PutKeyPolicy", put))[0].status == 200
    sent = request("DescribeKey", {"KeyId": key_id})
    assert wire.send(sent)[0].code == "AccessDeniedException"
    assert wire.send(sent, scheme="https")[0].status == 200
    assert wire.send(sent, address=None)[0].status == 200
    assert wire.kms.records()[-1].source_ip_address == "localhost"


def test_each_account_and_region_has_its_own_keys(wire: Wire) -> None:
    made = wire.send(
        request("CreateKey"),
        request("CreateKey", region="eu-west-1"),
        request("CreateKey", access_key=OTHER_KEY, secret=OTHER_SECRET),
    )
    arns = [got.json["KeyMetadata"]["Arn"].rpartition(":")[0] for got in made]
    assert arns == [
        "arn:aws:kms:us-east-1:000000000000",
        "arn:aws:kms:eu-west-1:000000000000",
        "arn:aws:kms:us-east-1:111111111111",
    ]
    key_id = made[1].json["KeyMetadata"]["KeyId"]
    got = wire.send(request("DescribeKey", {"KeyId": key_id}))[0]
    assert (got.status, got.code) == (400, "NotFoundException")


def test_only_the_regions_that_are_served(memory_path: Path) -> None:
    with wire_on(memory_path / "kms", regions=frozenset({"us-east-1"})) as wire:
        here, there = wire.send(request("ListKeys"), request("ListKeys", region="eu-west-1"))
    assert here.status == 200
    assert (there.status, there.code) == (400, "InvalidSignatureException")
    assert "valid region" in there.json["message"]


def test_errors_look_as_those_of_aws(wire: Wire) -> None:
    key_id = wire.kms.new_key()
    blob = wire.send(request("Encrypt", {"KeyId": key_id, "Plaintext": "YQ=="}))[0]
    cases = [
        (request("DescribeKey", {"KeyId": "x"}), 400, "NotFoundException", "Invalid keyId 'x'"),
        (
            request(
                "Decrypt",
                {
                    "CiphertextBlob": blob.json["CiphertextBlob"],
                    "EncryptionContext": {"other": "context"},
                },
            ),
            400,
            "InvalidCiphertextException",
            None,
        ),
        (request("Sign"), 400, "UnsupportedOperationException", "Sign is not supported"),
        (request("Encrypt", b"{"), 400, None, None),
        (
            request("DescribeKey", {"KeyId": key_id}, access_key=USER_KEY, secret=USER_SECRET),
            400,
            "AccessDeniedException",
            "is not authorized to perform: kms:DescribeKey",
        ),
        (
            replace(
                signed(),
                headers=[
                    ("x-amz-target", "TrentService.ListKeys"),
                    ("content-type", "application/x-amz-json-1.1"),
                ],
            ),
            400,
            "MissingAuthenticationTokenException",
            "Missing Authentication Token",
        ),
        (
            request("ListKeys", access_key="AKIANOBODY"),
            400,
            "UnrecognizedClientException",
            "The security token included in the request is invalid.",
        ),
        (
            request("ListKeys", secret="wrong"),
            400,
            "InvalidSignatureException",
            "does not match the signature you provided",
        ),
    ]
    for sent, status, code, text in cases:
        got = wire.send(sent)[0]
        assert got.status == status
        assert code in (None, got.code)
        assert (text is None and code is None) or (text or "") in got.json.get("message", "")
        if code == "InvalidCiphertextException":
            assert "message" not in got.json


@pytest.mark.parametrize(
    "target", ["", "TrentService.", "TrentService.CreateAccessKey", "Other.ListKeys", "ListKeys"]
)
def test_unknown_operations(wire: Wire, target: str) -> None:
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target}
    got = wire.send(signed(headers=headers))[0]
    assert (got.status, got.json) == (400, {"__type": "UnknownOperationException"})


def test_only_post_of_the_root_with_a_known_content_type(wire: Wire) -> None:
    target = {"X-Amz-Target": "TrentService.ListKeys"}
    json_type = {"Content-Type": "application/x-amz-json-1.1"}
    for sent in (
        signed(method="GET", headers={**target, **json_type}, body=b""),
        signed(target="/keys", headers={**target, **json_type}),
        signed(headers={**target, "Content-Type": "text/plain"}),
        signed(headers=target),
    ):
        got = wire.send(sent)[0]
        assert (got.status, got.code) == (400, "UnknownOperationException")
    assert wire.kms.records() == []


def test_every_operation_of_aws_is_known() -> None:
    import botocore.session

    model = botocore.session.get_session().get_service_model("kms")
    assert set(model.operation_names) == ALL_OPERATIONS


def test_what_cannot_be_read_is_recorded_as_refused(wire: Wire) -> None:
    assert wire.send(request("Encrypt", b'{"KeyId": 1}'))[0].status == 400
    record = wire.kms.records()[-1]
    assert record.event_name == "Encrypt"
    assert record.error_code is not None
    assert record.user_identity.arn == "arn:aws:iam::000000000000:root"


def test_a_number_of_too_many_digits_does_not_parse(wire: Wire) -> None:
    got = wire.send(request("ListKeys", b'{"Limit": %s}' % (b"1" * 5000)))[0]
    assert (got.status, got.code) == (400, "SerializationException")
    assert got.json["message"] == "the request is not valid JSON: it does not parse"


def test_what_needs_no_body_to_be_refused_is_refused_without(wire: Wire) -> None:
    unsigned = [h for h in request("ListKeys").headers if h[0] != "authorization"]
    cases = [
        replace(request("ListKeys"), headers=unsigned),
        request("NoSuchOperation"),
        replace(request("ListKeys"), path="/keys"),
    ]
    codes = [got.code for got in wire.send(*cases, is_half=True)]
    assert codes == [
        "MissingAuthenticationTokenException",
        "UnknownOperationException",
        "UnknownOperationException",
    ]
    assert wire.send(request("ListKeys"), is_half=True) == []


def test_all_bodies_share_a_budget(memory_path: Path) -> None:
    large = request("ListKeys", b" " * 65536 + b"{}")
    with wire_on(memory_path / "kms", budget=BodyBudget(150_000)) as wire:
        got = wire.send(*[large] * 5, is_half=True)
        assert [(answer.status, answer.code) for answer in got] == [
            (503, "ThrottlingException")
        ] * 2
        # What was taken is given back, whether a body was completed or not.
        for _ in range(5):
            assert wire.send(large)[0].status == 200
    with wire_on(memory_path / "other", budget=BodyBudget(0)) as wire:
        assert wire.send(large)[0].status == 503
        assert wire.send(request("ListKeys"))[0].status == 200


def test_requests_of_nobody_are_not_recorded(wire: Wire) -> None:
    assert wire.send(request("ListKeys", secret="wrong"))[0].status == 400
    assert wire.kms.records() == []
    summary = wire.guard.take_summary()
    assert summary is not None
    assert summary["byErrorCode"] == {"InvalidSignatureException": 1}
    assert summary["byAddress"] == {"192.0.2.7": 1}


def test_who_fails_too_often_waits_and_others_do_not(memory_path: Path) -> None:
    guard = FloodGuard(burst=3, per_second=0)
    with wire_on(memory_path / "kms", guard=guard) as wire:
        assert wire.send(request("ListKeys"))[0].status == 200
        codes = [wire.send(request("ListKeys", secret="wrong"))[0].code for _ in range(5)]
        assert codes == ["InvalidSignatureException"] * 3 + ["ThrottlingException"] * 2
        got = wire.send(request("ListKeys", secret="wrong"))[0]
        assert got.headers["connection"] == "close"
        # An access key that is known goes on; one that is not is not looked up from there.
        assert wire.send(request("ListKeys"))[0].status == 200
        opened = wire.access_keys.opened_count
        other = request("ListKeys", access_key=OTHER_KEY, secret=OTHER_SECRET)
        assert wire.send(other)[0].code == "ThrottlingException"
        assert wire.access_keys.opened_count == opened
        assert wire.send(other, address="192.0.2.8")[0].status == 200


def test_a_known_access_key_goes_on_into_another_day_and_region(memory_path: Path) -> None:
    """Also from an address that fails too often, but who only knows its id gets no further."""
    with wire_on(memory_path / "kms", guard=FloodGuard(burst=1, per_second=0)) as wire:
        assert wire.send(request("ListKeys"))[0].status == 200
        for _ in range(2):
            wire.send(request("ListKeys", secret="wrong"))
        assert wire.send(request("ListKeys", region="eu-west-1"))[0].status == 200
        wire.now += 86400
        assert wire.send(request("ListKeys", now=wire.now))[0].status == 200
        before = wire.access_keys.opened_count
        for number in range(100):
            forged = request("ListKeys", secret="wrong", region=f"eu-north-{number}", now=wire.now)
            assert wire.send(forged)[0].code == "ThrottlingException"
        assert wire.access_keys.opened_count == before + 64
        assert wire.send(request("ListKeys", now=wire.now))[0].status == 200


def test_a_deactivated_access_key_ends_at_once(wire: Wire) -> None:
    assert wire.send(request("ListKeys"))[0].status == 200
    wire.access_keys.deactivate(ACCESS_KEY)
    for _ in range(2):
        assert wire.send(request("ListKeys"))[0].code == "UnrecognizedClientException"


@pytest.mark.parametrize(
    "members", [{"created_at": 1.0}, {"is_for_volumes": True}, {"is_active": False}]
)
def test_an_access_key_that_was_made_anew_is_another(wire: Wire, members: dict[str, Any]) -> None:
    """For the KMS and for STS: what was kept of the old one is good for nothing more."""
    whoami = signed(service="sts", headers=FORM, body=IDENTITY)
    assert [got.status for got in wire.send(request("ListKeys"), whoami)] == [200, 200]
    wire.access_keys.replace(ACCESS_KEY, **members)
    got, told = wire.send(request("ListKeys"), whoami)
    assert got.code == "UnrecognizedClientException"
    assert "<Code>InvalidClientTokenId</Code>" in told.body.decode()
    expected = [200, 200] if members.get("is_active", True) else [400, 403]
    assert [got.status for got in wire.send(request("ListKeys"), whoami)] == expected


def test_the_secret_of_an_access_key_that_was_made_anew_is_good_at_once(wire: Wire) -> None:
    assert wire.send(request("ListKeys"))[0].status == 200
    wire.access_keys.replace(ACCESS_KEY, created_at=1.0, secret="another")
    assert wire.send(request("ListKeys", secret="another"))[0].status == 200
    assert wire.send(request("ListKeys"))[0].code == "InvalidSignatureException"
    opened = wire.access_keys.opened_count
    assert wire.send(request("ListKeys", secret="another"))[0].status == 200
    assert wire.access_keys.opened_count == opened


def test_nobody_has_signing_keys_kept_without_end(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("volcrypt.wire.credentials.MAX_KEPT", 2)
    for region in ("us-east-1", "eu-west-1", "eu-west-2"):
        assert wire.send(request("ListKeys", region=region))[0].status == 200
    opened = wire.access_keys.opened_count
    for region in ("eu-west-2", "eu-west-1"):
        wire.send(request("ListKeys", region=region))
    assert wire.access_keys.opened_count == opened
    wire.send(request("ListKeys"))
    assert wire.access_keys.opened_count == opened + 1


def test_each_of_those_who_ask_at_once_is_checked(wire: Wire) -> None:
    """In one turn of the engine, in either order."""
    other = request("ListKeys", access_key=OTHER_KEY, secret=OTHER_SECRET)
    assert [got.status for got in wire.send(request("ListKeys"), other)] == [200, 200]
    wire.access_keys.deactivate(ACCESS_KEY)
    good, bad = wire.send(other, request("ListKeys"))
    assert (good.status, bad.status) == (200, 400)
    wire.send(request("ListKeys"))
    wire.access_keys.replace(ACCESS_KEY, is_active=True)
    assert [got.status for got in wire.send(request("ListKeys"), other)] == [200, 200]
    wire.access_keys.deactivate(ACCESS_KEY)
    bad, good = wire.send(request("ListKeys"), other)
    assert (good.status, bad.status) == (200, 400)


def test_a_secret_is_opened_once_a_day_region_and_service(wire: Wire) -> None:
    for _ in range(3):
        wire.send(request("ListKeys"), request("ListKeys"))
    first = wire.access_keys.opened_count
    assert first <= 2  # two of the first turn may both have looked
    wire.send(request("ListKeys", region="eu-west-1"), signed(service="sts", headers=FORM))
    assert wire.access_keys.opened_count == first + 1  # an STS action that is none is not looked up


def test_a_full_queue_throttles(memory_path: Path) -> None:
    with wire_on(memory_path / "kms", max_waiting=4) as wire:
        assert wire.send(request("ListKeys"))[0].status == 200
        got = wire.send(*[request("ListKeys") for _ in range(20)])
    codes = [answer.code for answer in got if answer.status != 200]
    assert codes
    assert set(codes) == {"ThrottlingException"}
    assert len(codes) < 20


def test_faults_say_nothing_of_the_inside(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    key_id = wire.kms.new_key()

    def fail(*_args: object, **_kwargs: object) -> bytes:
        raise HsmUnavailableError("secret place of the module")

    monkeypatch.setattr(wire.kms.keystore, "encrypt", fail)
    got = wire.send(request("GenerateDataKey", {"KeyId": key_id, "NumberOfBytes": 32}))[0]
    assert (got.status, got.code) == (500, "KeyUnavailableException")
    assert "secret place" not in got.json["message"]

    def break_down(*_args: object, **_kwargs: object) -> bytes:
        raise RuntimeError("secret place of the program")

    monkeypatch.setattr(wire.kms.keystore, "encrypt", break_down)
    got = wire.send(request("GenerateDataKey", {"KeyId": key_id, "NumberOfBytes": 32}))[0]
    assert (got.status, got.code) == (500, "KMSInternalException")
    assert "secret place" not in got.json["message"]
    assert [type(bug) for bug in wire.bugs] == [HsmUnavailableError, RuntimeError]
    wire.bugs.clear()
    assert wire.send(request("ListKeys"))[0].status == 200


def test_a_body_that_is_too_large(wire: Wire) -> None:
    got = wire.send(request("ListKeys", bytes(2**20 + 1)))[0]
    assert (got.status, got.code) == (413, "RequestEntityTooLargeException")
    assert wire.kms.records() == []
    summary = wire.guard.take_summary()
    assert summary is not None
    assert summary["byErrorCode"] == {"RequestEntityTooLargeException": 1}


def test_sts_says_who_the_caller_is(wire: Wire) -> None:
    got = wire.send(signed(service="sts", headers=FORM, body=IDENTITY))[0]
    assert got.status == 200
    assert got.headers["content-type"] == "text/xml"
    text = got.body.decode()
    assert "<Arn>arn:aws:iam::000000000000:root</Arn>" in text
    assert "<Account>000000000000</Account>" in text
    assert f"<RequestId>{got.headers['x-amzn-requestid']}</RequestId>" in text


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"body": b"Action=AssumeRole"}, 400, "InvalidAction"),
        ({"body": b"\xff"}, 400, "InvalidAction"),
        ({"secret": "wrong"}, 403, "SignatureDoesNotMatch"),
        ({"access_key": "AKIANOBODY"}, 403, "InvalidClientTokenId"),
        ({"service": "kms"}, 403, "SignatureDoesNotMatch"),
    ],
)
def test_errors_of_sts(wire: Wire, options: dict[str, str | bytes], status: int, code: str) -> None:
    given: dict[str, object] = {"service": "sts", "headers": FORM, "body": IDENTITY, **options}
    got = wire.send(signed(**given))[0]  # type: ignore[arg-type]
    assert got.status == status
    assert f"<Code>{code}</Code>" in got.body.decode()


_AUTHORIZATION = (
    "AWS4-HMAC-SHA256 Credential=a/20270115/us-east-1/kms/aws4_request, "
    "SignedHeaders=host, Signature=0"
)
_HEADER_TEXT = st.text(st.characters(max_codepoint=255), max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    operation=st.sampled_from(sorted(ALL_OPERATIONS)),
    body=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(
                    st.sampled_from(
                        ["KeyId", "Plaintext", "CiphertextBlob", "EncryptionContext", "Limit"]
                    ),
                    inner,
                    max_size=4,
                ),
            ),
            max_leaves=8,
        ),
    ),
)
def test_any_body_gets_an_answer(wire: Wire, operation: str, body: object) -> None:
    got = wire.send(request(operation, body))[0]
    assert got.status in (200, 400)
    assert wire.bugs == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    headers=st.lists(
        st.tuples(
            st.one_of(
                st.sampled_from(
                    [
                        "authorization",
                        "content-type",
                        "date",
                        "host",
                        "x-amz-content-sha256",
                        "x-amz-date",
                        "x-amz-target",
                    ]
                ),
                _HEADER_TEXT,
            ),
            st.one_of(
                _HEADER_TEXT,
                st.sampled_from(
                    [
                        _AUTHORIZATION,
                        "20270115T080000Z",
                        "application/x-amz-json-1.1",
                        "TrentService.ListKeys",
                    ]
                ),
            ),
        ),
        max_size=8,
    ),
    target=st.text(st.characters(max_codepoint=255), max_size=20),
)
def test_any_headers_get_an_answer(wire: Wire, headers: list[tuple[str, str]], target: str) -> None:
    path, _, query = target.partition("?")
    got = wire.send(replace(signed(), headers=headers, path=path, query=query))[0]
    assert got.status in (400, 403)
    assert wire.bugs == []
