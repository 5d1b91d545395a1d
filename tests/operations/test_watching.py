"""What the key check takes for a loss: every definite refusal, and nothing else."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.kms.importing import MATERIAL, parameters, wrap
from tests.wire.signing import ACCESS_KEY, SECRET
from volcrypt import errors
from volcrypt.access import open_home_unattended
from volcrypt.errors import (
    ConfigurationError,
    DryRunSucceededError,
    InvalidArgumentError,
    KmsError,
    VolcryptError,
)
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.kms.home import open_kms
from volcrypt.kms.messages.base import A, Request
from volcrypt.kms.messages.data import DecryptRequest, DecryptResponse
from volcrypt.kms.messages.imports import ImportKeyMaterialRequest
from volcrypt.kms.messages.keys import DescribeKeyRequest
from volcrypt.kms.model import Caller
from volcrypt.names import StoreId
from volcrypt.operations.home import Home
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.leases import LOOK_SECONDS
from volcrypt.operations.mount_grants import serving_key
from volcrypt.operations.records import load_record
from volcrypt.operations.vault import Access, call
from volcrypt.operations.volumes import create_volume
from volcrypt.operations.watching import KeyCheck, Watching, make_check, order_for, watch_order
from volcrypt.settings import runtime_root
from volcrypt.volume.fence import Held, KeyCheckOrder, LeaseCheckOrder, Lost, Unanswered, check_name
from volcrypt.volume.lease_time import boot_seconds

WATCHING = Watching(profile="default", region=None, interval_seconds=20)
KEY = "arn:aws:kms:us-east-1:000000000000:key/11111111-2222-4333-8444-555555555555"
CHECK = KeyCheckOrder(
    kms_key_arn=KEY,
    ciphertext=b"wrapped",
    encryption_context={"volcrypt:volume-id": "vol-1"},
    principal="arn:aws:sts::000000000000:assumed-role/volcrypt:host/0123456789abcdef",
    account="000000000000",
)


def perform(home: Home, operation: str, **members: Any) -> dict[str, Any]:
    return call(home.kms, home.caller, operation, members)


def make_volume(home: Home, key: str) -> VolumeRecord:
    return create_volume(home, size_bytes=4096, name=None, choice=KeyChoice(kms_key=key))


@contextmanager
def watched(home: Home, record: VolumeRecord) -> Iterator[KeyCheck]:
    """The check of a volume whose key was given out, with a grant, as for a mount."""
    with serving_key(home, record):
        [order] = watch_order(home, record, WATCHING).checks
        assert isinstance(order, KeyCheckOrder)
        check = KeyCheck(order)
        assert check.ask(home) == Held(check="key")
        yield check


def disable(home: Home, key: str) -> None:
    perform(home, "DisableKey", KeyId=key)


def schedule_deletion(home: Home, key: str) -> None:
    perform(home, "ScheduleKeyDeletion", KeyId=key)


def revoke(home: Home, key: str) -> None:
    [grant] = perform(home, "ListGrants", KeyId=key)["Grants"]
    perform(home, "RevokeGrant", KeyId=key, GrantId=grant["GrantId"])


def deny(home: Home, key: str) -> None:
    policy = json.loads(perform(home, "GetKeyPolicy", KeyId=key)["Policy"])
    refusal = {"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}
    policy["Statement"].append(refusal)
    perform(home, "PutKeyPolicy", KeyId=key, Policy=json.dumps(policy))


@pytest.mark.parametrize(
    ("refuse", "code", "words"),
    [
        (disable, "DisabledException", "is disabled"),
        (schedule_deletion, "KMSInvalidStateException", "is pending deletion"),
        (revoke, "AccessDeniedException", "not allowed"),
        (deny, "AccessDeniedException", "not allowed"),
    ],
)
def test_definite_refusals(
    home: Home, refuse: Callable[[Home, str], None], code: str, words: str
) -> None:
    key = perform(home, "CreateKey")["KeyMetadata"]["KeyId"]
    with watched(home, make_volume(home, key)) as check:
        refuse(home, key)
        answer = check.ask(home)
    assert isinstance(answer, Lost)
    assert key in answer.reason
    assert code in answer.reason
    assert words in answer.reason


@pytest.mark.parametrize("ends_by", ["deletion", "expiry"])
def test_imported_material_that_is_gone(home: Home, ends_by: str) -> None:
    now = time.time()
    with open_kms(
        home.path / "kms",
        home.runtime,
        account=home.account,
        region=home.region,
        clock=lambda: now,
    ) as service:
        home.__dict__["vault"] = service
        key = perform(home, "CreateKey", Origin="EXTERNAL")["KeyMetadata"]["KeyId"]
        given = parameters(service, key)
        service.perform(
            home.caller,
            ImportKeyMaterialRequest(
                key_id=key,
                import_token=given.import_token,
                encrypted_key_material=wrap(MATERIAL, given.public_key, "RSAES_OAEP_SHA_256"),
                expiration_model="KEY_MATERIAL_EXPIRES",
                valid_to=now + 3600,
            ),
        )
        with watched(home, make_volume(home, key)) as check:
            if ends_by == "deletion":
                perform(home, "DeleteImportedKeyMaterial", KeyId=key)
            else:
                now += 3601
            answer = check.ask(home)
    assert isinstance(answer, Lost)
    assert "is pending import" in answer.reason


def test_the_grant_counts_also_where_everybody_may_use_the_key(home: Home) -> None:
    """The default key: its policy lets the whole account in through the volume service."""
    with watched(home, make_volume(home, "alias/volcrypt/ebs")) as check:
        key = perform(home, "DescribeKey", KeyId="alias/volcrypt/ebs")["KeyMetadata"]["Arn"]
        revoke(home, key)
        assert isinstance(check.ask(home), Lost)


def test_a_key_that_is_usable_again_is_not_lost(home: Home) -> None:
    key = perform(home, "CreateKey")["KeyMetadata"]["KeyId"]
    with watched(home, make_volume(home, key)) as check:
        disable(home, key)
        assert isinstance(check.ask(home), Lost)
        perform(home, "EnableKey", KeyId=key)
        assert check.ask(home) == Held(check="key")


# ---------------------------------------------------------------- every answer there is


class ScriptedKms:
    """Answers Decrypt with an error, and DescribeKey with a state or an error."""

    def __init__(self, error: VolcryptError, state: str | VolcryptError = "Enabled") -> None:
        self._error = error
        self._state = state

    def perform(self, _caller: Caller, request: Request[A], /) -> A:
        if isinstance(request, DescribeKeyRequest):
            if isinstance(self._state, VolcryptError):
                raise self._state
            answer: A = _described(self._state)
            return answer
        assert isinstance(request, DecryptRequest)
        assert request.dry_run
        raise self._error


def _described(state: str) -> Any:
    metadata = msgspec.defstruct("Metadata", [("key_state", str)])(key_state=state)
    return msgspec.defstruct("Response", [("key_metadata", Any)])(key_metadata=metadata)


def ask_scripted(home: Home, kms: Any) -> Any:
    access = Access(other_kms=lambda: kms, kms_name="other")
    with Home(home.path, runtime_root(), access=access) as other:
        return make_check(CHECK).ask(other)


LOSSES = {"AccessDeniedError", "PrincipalAccessDeniedError", "KeyDisabledError", "KeyNotFoundError"}
KMS_ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, KmsError) and kind is not DryRunSucceededError
]


@pytest.mark.parametrize("kind", KMS_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_a_kms_is_a_loss_or_none(home: Home, kind: type[KmsError]) -> None:
    answer = ask_scripted(home, ScriptedKms(kind("some words")))
    assert isinstance(answer, Lost if kind.__name__ in LOSSES else Unanswered)
    assert "some words" in answer.reason


@pytest.mark.parametrize(
    ("state", "is_lost"),
    [
        ("PendingDeletion", True),
        ("PendingImport", True),
        ("Disabled", True),
        ("Unavailable", False),
        ("Creating", False),
        ("Enabled", False),
    ],
)
def test_a_state_that_passes_is_no_loss(home: Home, state: str, is_lost: bool) -> None:
    error = errors.InvalidStateError(f"{KEY} is somehow.")
    answer = ask_scripted(home, ScriptedKms(error, state))
    assert isinstance(answer, Lost) == is_lost


@pytest.mark.parametrize(
    ("words", "is_lost"),
    [("is pending deletion.", True), ("is pending import.", True), ("is unavailable.", False)],
)
def test_who_may_not_describe_the_key_goes_by_the_words(
    home: Home, words: str, is_lost: bool
) -> None:
    error = errors.InvalidStateError(f"{KEY} {words}")
    answer = ask_scripted(home, ScriptedKms(error, errors.AccessDeniedError("no")))
    assert isinstance(answer, Lost) == is_lost


def test_a_kms_without_dry_run_is_no_answer_and_its_key_is_wiped(home: Home) -> None:
    plaintext = bytearray(os.urandom(64))

    class Generous:
        def perform(self, _caller: Caller, _request: object, /) -> DecryptResponse:
            return DecryptResponse(
                key_id=KEY,
                plaintext=plaintext,
                encryption_algorithm="SYMMETRIC_DEFAULT",
                key_material_id="",
            )

    answer = ask_scripted(home, Generous())
    assert isinstance(answer, Unanswered)
    assert "does not know DryRun" in answer.reason
    assert plaintext == bytes(64)


# ---------------------------------------------------------------- on the wire


class Endpoint:
    """A server that answers everything with one status and code, or not at all."""

    def __init__(self) -> None:
        self.status = 500
        self.code = "KMSInternalException"
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                body = json.dumps({"__type": endpoint.code, "message": f"{KEY} is x."}).encode()
                self.send_response(endpoint.status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Endpoint]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    made = Endpoint()
    thread = threading.Thread(target=lambda: made.server.serve_forever(0.01))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def test_another_kms_on_the_wire(home: Home, endpoint: Endpoint) -> None:
    def answer() -> Any:
        with open_home_unattended(home.path, profile="cloud", region=None) as opened:
            return make_check(CHECK).ask(opened)

    (home.path / "config.toml").write_text(
        f"[profiles.cloud]\nkms = '{endpoint.url}'\nregion = 'us-east-1'\n"
        "default_kms_key = 'alias/a'\n"
    )
    cases = [
        (500, "KMSInternalException", Unanswered),
        (400, "ThrottlingException", Unanswered),
        (400, "ExpiredTokenException", Unanswered),
        (400, "UnrecognizedClientException", Unanswered),
        (400, "SomethingNewException", Unanswered),
        (400, "DryRunOperationException", Held),
        (400, "AccessDeniedException", Lost),
        (400, "DisabledException", Lost),
        (400, "NotFoundException", Lost),
    ]
    for status, code, kind in cases:
        endpoint.status, endpoint.code = status, code
        assert type(answer()) is kind, code
    endpoint.server.shutdown()
    endpoint.server.server_close()
    gone = answer()
    assert isinstance(gone, Unanswered)
    assert "does not answer" in gone.reason


# ---------------------------------------------------------------- leases


def test_a_lease_is_watched_whether_the_key_is_or_not(home: Home) -> None:
    record = make_volume(home, "alias/volcrypt/ebs")
    leased = msgspec.structs.replace(record, lease=StoreId("store-0123456789abcdef0"))
    only = Watching(profile="default", region=None, interval_seconds=30, key=False)
    assert order_for(home, record, None) is None
    assert order_for(home, record, only) is None
    order = order_for(home, leased, only)
    assert order is not None
    assert order.checks == [LeaseCheckOrder(volume_id=record.volume_id)]
    assert order.interval_seconds == LOOK_SECONDS
    both = order_for(home, leased, WATCHING)
    assert both is not None
    assert [check_name(check) for check in both.checks] == ["key", "lease"]


def test_a_lease_that_cannot_be_asked_for_is_no_loss(home: Home) -> None:
    """Its store is not known here; and a volume without one has nothing to lose."""
    record = make_volume(home, "alias/volcrypt/ebs")
    check = make_check(LeaseCheckOrder(volume_id=record.volume_id))
    before = boot_seconds()
    held = check.ask(home)
    assert isinstance(held, Held)
    assert held.check == "lease"
    assert before <= held.asked_at <= boot_seconds()
    away = make_check(LeaseCheckOrder(volume_id="vol-0123456789abcdef0"))
    assert isinstance(away.ask(home), Unanswered)
    assert not away.has_farewell
    away.take_leave(home)


# ---------------------------------------------------------------- what cannot be watched


def test_no_key_no_fence(home: Home) -> None:
    plain = create_volume(home, size_bytes=4096, name=None, choice=KeyChoice(encrypted=False))
    with pytest.raises(InvalidArgumentError, match="not encrypted"):
        watch_order(home, plain, WATCHING)


def test_a_pin_that_somebody_must_give_cannot_be_watched_with(home: Home) -> None:
    pin_path = home.path / "kms" / "pin"
    pin = pin_path.read_bytes()
    with Home(home.path, runtime_root()) as opened:
        record = create_volume(opened, size_bytes=4096, name=None, choice=KeyChoice())
    pin_path.unlink()
    # A source that answers without anybody, such as a file elsewhere.
    with Home(home.path, runtime_root(), pin=lambda _: bytearray(pin)) as opened:
        assert watch_order(opened, record, WATCHING).checks
    with Home(home.path, runtime_root(), pin=lambda may: bytearray(pin) if may else None) as opened:
        assert load_record(opened, record.volume_id) == record  # open, by a PIN that was typed
        with pytest.raises(ConfigurationError, match="without a person") as caught:
            watch_order(opened, record, WATCHING)
        assert "kms serve" in str(caught.value.hint)


def test_a_home_that_cannot_be_opened_is_no_answer(home: Home) -> None:
    [check] = watch_order(home, make_volume(home, "alias/volcrypt/ebs"), WATCHING).checks
    (home.path / "kms" / "catalog.sqlite3").rename(home.path / "away")
    with open_home_unattended(home.path, profile="default", region=None) as opened:
        assert isinstance(make_check(check).ask(opened), Unanswered)
