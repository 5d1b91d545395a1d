"""Custom key stores on a real second token, each in a process of its own."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.kms import ACCOUNT, NOW, REGION, ROOT, STRANGER
from tests.key_search import found_in_process, traces
from tests.softhsm import CLUSTER_PIN, make_cluster
from tests.strace import injection, strace
from volcrypt.errors import (
    AccessDeniedError,
    ClusterInUseError,
    ClusterNotActiveError,
    ClusterNotFoundError,
    ClusterNotRelatedError,
    CustomKeyStoreHasKeysError,
    CustomKeyStoreInvalidStateError,
    CustomKeyStoreNameInUseError,
    CustomKeyStoreNotFoundError,
    DryRunSucceededError,
    IncorrectTrustAnchorError,
    IntegrityError,
    InvalidStateError,
    KmsValidationError,
    LimitExceededError,
    UnsupportedOperationError,
)
from volcrypt.kms import remote_store
from volcrypt.kms.custom_key_store import get_key_store, put_key_store
from volcrypt.kms.home import create_kms, open_kms
from volcrypt.kms.keyring import KEYS, decode_key, get_key, put_key
from volcrypt.kms.messages.base import Request
from volcrypt.kms.messages.data import DecryptRequest, EncryptRequest
from volcrypt.kms.messages.key_stores import (
    ConnectCustomKeyStoreRequest,
    CreateCustomKeyStoreRequest,
    CustomKeyStoresListEntry,
    DeleteCustomKeyStoreRequest,
    DescribeCustomKeyStoresRequest,
    DisconnectCustomKeyStoreRequest,
    UpdateCustomKeyStoreRequest,
)
from volcrypt.kms.messages.keys import CreateKeyRequest
from volcrypt.kms.model import KeyManager, KeyMaterial, KeyOrigin, KeyState, KmsKey
from volcrypt.kms.policy import default_policy
from volcrypt.kms.remote_store import Cluster
from volcrypt.kms.rewrap import is_rewrap_due, mark_rewrap_due
from volcrypt.kms.service import KmsService

CLUSTER = "cluster-2a23b4cdefg"
RELATED = "cluster-2222222222r"
UNRELATED = "cluster-2222222222u"
ABSENT = "cluster-2222222222a"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
KEY_ID = "11111111-2222-4333-8444-555555555555"


class Home:
    """A home with clusters, and what a user does with it."""

    def __init__(self, directory: Path, service: KmsService) -> None:
        self.directory = directory
        self.service = service

    def create(self, name: str = "mine", cluster_id: str = CLUSTER, **members: str) -> str:
        members = {"key_store_password": CLUSTER_PIN, **members}
        return self.service.perform(
            ROOT,
            CreateCustomKeyStoreRequest(
                custom_key_store_name=name,
                cloud_hsm_cluster_id=cluster_id,
                trust_anchor_certificate=CERTIFICATE,
                **members,
            ),
        ).custom_key_store_id

    def connect(self, id_: str) -> CustomKeyStoresListEntry:
        self.service.perform(ROOT, ConnectCustomKeyStoreRequest(custom_key_store_id=id_))
        return self.describe(id_)

    def disconnect(self, id_: str) -> None:
        self.service.perform(ROOT, DisconnectCustomKeyStoreRequest(custom_key_store_id=id_))

    def delete(self, id_: str) -> None:
        self.service.perform(ROOT, DeleteCustomKeyStoreRequest(custom_key_store_id=id_))

    def describe(self, id_: str) -> CustomKeyStoresListEntry:
        (entry,) = self.service.perform(
            ROOT, DescribeCustomKeyStoresRequest(custom_key_store_id=id_)
        ).custom_key_stores
        return entry

    def make_key(self, id_: str, key_id: str = KEY_ID) -> str:
        """A key in the store, as CreateKey makes it."""
        with self.service._catalog.changing() as change:
            store = self.service._connected_store(change, id_)
            material = KeyMaterial(
                material_id=bytes(store.random(32)).hex(),
                wrapped=store.generate_material(),
                created_at=NOW,
            )
            put_key(
                change,
                KmsKey(
                    key_id=key_id,
                    account=ACCOUNT,
                    region=REGION,
                    created_at=NOW,
                    description="",
                    state=KeyState.ENABLED,
                    manager=KeyManager.CUSTOMER,
                    origin=KeyOrigin.AWS_CLOUDHSM,
                    policy=default_policy(ACCOUNT),
                    materials=(material,),
                    custom_key_store_id=id_,
                ),
            )
        return key_id

    def encrypt(self, key_id: str = KEY_ID) -> bytes:
        request = EncryptRequest(key_id=key_id, plaintext=bytearray(b"text"))
        return self.service.perform(ROOT, request).ciphertext_blob

    def decrypt(self, blob: bytes) -> bytes:
        return bytes(self.service.perform(ROOT, DecryptRequest(ciphertext_blob=blob)).plaintext)

    def processes(self) -> list[int]:
        """Those that serve key stores of this home's, which are children of this process."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                status = path.with_name("status").read_text()
                command = path.read_bytes()
            except OSError:
                continue
            if f"PPid:\t{os.getpid()}\n" in status and b"key_store_process" in command:
                found.append(int(path.parent.name))
        return found


@pytest.fixture
def clusters(memory_path: Path) -> dict[str, Cluster]:
    cluster = make_cluster(memory_path / "cluster", trust_anchor_certificate=CERTIFICATE)
    other = make_cluster(memory_path / "other", trust_anchor_certificate=CERTIFICATE)
    return {
        CLUSTER: cluster,
        RELATED: other,
        UNRELATED: replace(other, trust_anchor_certificate="another"),
        ABSENT: replace(cluster, module=Path("/nowhere/module.so")),
    }


@pytest.fixture
def home(memory_path: Path, clusters: dict[str, Cluster]) -> Iterator[Home]:
    kms, run = memory_path / "kms", memory_path / "run"
    create_kms(kms, run, account=ACCOUNT, region=REGION, pin=None)
    with open_kms(kms, run, account=ACCOUNT, region=REGION, clusters=clusters) as service:
        home = Home(memory_path, service)
        yield home
    assert home.processes() == []


def test_the_life_of_a_key_store(home: Home) -> None:
    id_ = home.create()
    assert id_.startswith("cks-")
    assert len(id_) == 4 + 17
    entry = home.describe(id_)
    assert (entry.custom_key_store_name, entry.cloud_hsm_cluster_id) == ("mine", CLUSTER)
    assert (entry.connection_state, entry.custom_key_store_type) == ("DISCONNECTED", "AWS_CLOUDHSM")
    assert entry.trust_anchor_certificate == CERTIFICATE
    assert home.connect(id_).connection_state == "CONNECTED"
    home.make_key(id_)
    blob = home.encrypt()
    assert home.decrypt(blob) == b"text"
    home.disconnect(id_)
    assert home.processes() == []
    with pytest.raises(InvalidStateError, match=r"is unavailable\.$"):
        home.decrypt(blob)
    with pytest.raises(CustomKeyStoreInvalidStateError):
        home.make_key(id_)
    home.connect(id_)
    home.connect(id_)  # again: that is allowed
    assert home.decrypt(blob) == b"text"
    assert len(home.processes()) == 1
    with pytest.raises(CustomKeyStoreHasKeysError):
        home.delete(id_)
    with home.service._catalog.changing() as change:
        (item,) = change.items(KEYS)
        change.delete(KEYS, item.id)
    with pytest.raises(CustomKeyStoreInvalidStateError):
        home.delete(id_)
    home.disconnect(id_)
    home.delete(id_)
    with pytest.raises(CustomKeyStoreNotFoundError):
        home.describe(id_)


def test_material_of_a_key_store_is_in_its_token_only(home: Home) -> None:
    id_ = home.create()
    home.connect(id_)
    home.make_key(id_)
    home.encrypt()
    with home.service._catalog.reading() as view:
        (item,) = view.items(KEYS)
        stored = get_key_store(view, id_, account=ACCOUNT, region=REGION)
    assert item.owner == f"{REGION}:{ACCOUNT}:{id_}"
    assert stored is not None
    own = home.service.perform(ROOT, CreateKeyRequest()).key_metadata.key_id
    home.encrypt(own)
    # The home's token does not unwrap what the other has wrapped, although both are generation 1.
    wrapped = decode_key(item).current_material.wrapped
    assert wrapped is not None
    with pytest.raises(IntegrityError):
        home.service._keystore.encrypt(wrapped, plaintext=bytearray(1), aad=b"")


def test_the_password_is_nowhere(home: Home) -> None:
    request = CreateCustomKeyStoreRequest(
        custom_key_store_name="mine",
        cloud_hsm_cluster_id=CLUSTER,
        trust_anchor_certificate=CERTIFICATE,
        key_store_password=CLUSTER_PIN,
    )
    assert CLUSTER_PIN not in repr(request)
    id_ = home.service.perform(ROOT, request).custom_key_store_id
    home.connect(id_)
    secret = CLUSTER_PIN.encode()
    (pid,) = home.processes()
    for name in ("cmdline", "environ"):
        assert secret not in Path(f"/proc/{pid}/{name}").read_bytes()
    files = [path.read_bytes() for path in (home.directory / "kms").rglob("*") if path.is_file()]
    assert any(b"mine" in data for data in files)
    assert not any(secret in data for data in files)
    records = home.service.audit_log.read_records()
    (record,) = (r for r in records if r.event_name == "CreateCustomKeyStore")
    assert record.response_elements == {"customKeyStoreId": id_}
    assert set(record.request_parameters or {}) == {
        "customKeyStoreName",
        "cloudHsmClusterId",
        "trustAnchorCertificate",
    }


def test_keys_are_made_in_a_connected_store(home: Home) -> None:
    id_ = home.create()
    members = {"Origin": "AWS_CLOUDHSM", "CustomKeyStoreId": id_}
    with pytest.raises(CustomKeyStoreInvalidStateError, match="is DISCONNECTED"):
        home.service.call(ROOT, "CreateKey", members)
    home.connect(id_)
    made = home.service.call(ROOT, "CreateKey", members)["KeyMetadata"]
    assert (made["Origin"], made["KeyState"]) == ("AWS_CLOUDHSM", "Enabled")
    assert (made["CustomKeyStoreId"], made["CloudHsmClusterId"]) == (id_, CLUSTER)
    assert "CurrentKeyMaterialId" not in made
    key_id = made["KeyId"]
    assert home.service.call(ROOT, "DescribeKey", {"KeyId": key_id})["KeyMetadata"] == made
    blob = home.encrypt(key_id)
    assert home.decrypt(blob) == b"text"
    with pytest.raises(DryRunSucceededError):
        home.service.perform(ROOT, DecryptRequest(ciphertext_blob=blob, dry_run=True))
    home.disconnect(id_)
    described = home.service.call(ROOT, "DescribeKey", {"KeyId": key_id})["KeyMetadata"]
    assert described == made | {"KeyState": "Unavailable", "Enabled": False}
    with pytest.raises(InvalidStateError, match=f"{key_id} is unavailable"):
        home.decrypt(blob)
    for operation in ("EnableKeyRotation", "RotateKeyOnDemand", "GetKeyRotationStatus"):
        with pytest.raises(UnsupportedOperationError, match="origin is AWS_CLOUDHSM which"):
            home.service.call(ROOT, operation, {"KeyId": key_id})


def test_a_store_and_an_origin_that_do_not_fit(home: Home) -> None:
    id_ = home.create()
    home.connect(id_)
    for members in (
        {"CustomKeyStoreId": id_},
        {"CustomKeyStoreId": id_, "Origin": "EXTERNAL"},
        {"Origin": "AWS_CLOUDHSM"},
    ):
        with pytest.raises(KmsValidationError, match="CustomKeyStoreId is required for"):
            home.service.call(ROOT, "CreateKey", members)
    with pytest.raises(CustomKeyStoreNotFoundError):
        home.service.call(
            ROOT, "CreateKey", {"CustomKeyStoreId": "cks-0", "Origin": "AWS_CLOUDHSM"}
        )


# ------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_dies_takes_nothing_with_it(home: Home, how: signal.Signals) -> None:
    id_ = home.create()
    home.connect(id_)
    home.make_key(id_)
    blob = home.encrypt()
    own = home.service.perform(ROOT, CreateKeyRequest()).key_metadata.key_id
    (pid,) = home.processes()
    os.kill(pid, how)
    with pytest.raises(InvalidStateError) as raised:
        home.decrypt(blob)
    assert str(raised.value) == "KMS cannot communicate with your CloudHSM cluster"
    assert home.decrypt(home.encrypt(own)) == b"text"
    assert home.decrypt(blob) == b"text"
    assert home.describe(id_).connection_state == "CONNECTED"
    assert home.processes() != [pid]


@pytest.mark.parametrize("makes_key", [False, True])
def test_a_process_that_dies_in_the_middle_of_a_request(home: Home, makes_key: bool) -> None:
    """It has done what it was asked for, and is killed as it begins to say so."""
    id_ = home.create()
    home.connect(id_)
    home.make_key(id_)
    blob = home.encrypt()
    (pid,) = home.processes()

    def ask() -> str:
        if not makes_key:
            return home.decrypt(blob).decode()
        members = {"CustomKeyStoreId": id_, "Origin": "AWS_CLOUDHSM"}
        made = home.service.call(ROOT, "CreateKey", members)
        return str(made["KeyMetadata"]["KeyId"])

    with (
        strace(pid, *injection("write,sendto,sendmsg", "signal=KILL")),
        pytest.raises(InvalidStateError),
    ):
        ask()
    assert pid not in home.processes()
    assert home.decrypt(blob) == b"text"
    answer = ask()
    assert not makes_key or home.decrypt(home.encrypt(answer)) == b"text"


def test_a_module_that_hangs_is_given_up(home: Home) -> None:
    id_ = home.create()
    home.connect(id_)
    home.make_key(id_)
    blob = home.encrypt()
    (pid,) = home.processes()
    os.kill(pid, signal.SIGSTOP)
    (connection,) = home.service._key_stores._connections.values()
    assert connection._remote is not None
    connection._remote._call_seconds = 0.2
    with pytest.raises(InvalidStateError, match="cannot communicate"):
        home.decrypt(blob)
    assert pid not in home.processes()
    assert home.decrypt(blob) == b"text"


def test_a_token_that_breaks_comes_back(home: Home) -> None:
    id_ = home.create()
    home.connect(id_)
    home.make_key(id_)
    blob = home.encrypt()
    tokens = home.directory / "cluster" / "tokens"
    tokens.rename(home.directory / "away")
    (pid,) = home.processes()
    os.kill(pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(InvalidStateError):
            home.decrypt(blob)
    (home.directory / "away").rename(tokens)
    assert home.decrypt(blob) == b"text"


def test_a_wrong_password_is_a_failed_connection(home: Home) -> None:
    id_ = home.create(key_store_password="not the pin")
    entry = home.connect(id_)
    assert (entry.connection_state, entry.connection_error_code) == (
        "FAILED",
        "INVALID_CREDENTIALS",
    )
    with pytest.raises(CustomKeyStoreInvalidStateError):
        home.connect(id_)
    update = UpdateCustomKeyStoreRequest(custom_key_store_id=id_, key_store_password=CLUSTER_PIN)
    with pytest.raises(CustomKeyStoreInvalidStateError):
        home.service.perform(ROOT, update)
    home.disconnect(id_)
    assert home.describe(id_).connection_error_code is None
    with pytest.raises(CustomKeyStoreInvalidStateError):
        home.disconnect(id_)
    home.service.perform(ROOT, update)
    assert home.connect(id_).connection_state == "CONNECTED"


def test_a_password_that_was_refused_is_not_tried_at_every_call(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = home.create()
    home.connect(id_)
    home.make_key(id_)
    blob = home.encrypt()
    # The token's PIN changes behind our back; the process has to log in again.
    with home.service._catalog.changing() as change:
        store = get_key_store(change, id_, account=ACCOUNT, region=REGION)
        assert store is not None
        put_key_store(change, home.service._with_password(store, "another pin"))
    (pid,) = home.processes()
    os.kill(pid, signal.SIGKILL)
    started: list[object] = []
    real = remote_store.RemoteStore.__init__

    def counted(self: object, *arguments: object, **others: object) -> None:
        started.append(self)
        real(self, *arguments, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(remote_store.RemoteStore, "__init__", counted)
    for _ in range(4):
        with pytest.raises(InvalidStateError):
            home.decrypt(blob)
    assert len(started) == 1


def test_another_token_in_the_place_of_the_first_is_refused(home: Home) -> None:
    id_ = home.create()
    home.connect(id_)
    home.disconnect(id_)
    home.service.perform(
        ROOT, UpdateCustomKeyStoreRequest(custom_key_store_id=id_, cloud_hsm_cluster_id=RELATED)
    )
    entry = home.connect(id_)
    assert (entry.connection_state, entry.connection_error_code) == ("FAILED", "INTERNAL_ERROR")


def test_a_token_that_is_not_there(home: Home) -> None:
    id_ = home.create()
    tokens = home.directory / "cluster" / "tokens"
    tokens.rename(home.directory / "away")
    tokens.mkdir()
    assert home.connect(id_).connection_error_code == "CLUSTER_NOT_FOUND"


def test_a_cluster_that_is_configured_no_more(
    memory_path: Path, clusters: dict[str, Cluster]
) -> None:
    kms, run = memory_path / "kms", memory_path / "run"
    create_kms(kms, run, account=ACCOUNT, region=REGION, pin=None)
    with open_kms(kms, run, account=ACCOUNT, region=REGION, clusters=clusters) as service:
        home = Home(memory_path, service)
        id_ = home.create()
        home.connect(id_)
        home.make_key(id_)
        blob = home.encrypt()
    # Another process of the home connects by itself.
    with open_kms(kms, run, account=ACCOUNT, region=REGION, clusters=clusters) as service:
        assert Home(memory_path, service).decrypt(blob) == b"text"
    with open_kms(kms, run, account=ACCOUNT, region=REGION) as service:
        home = Home(memory_path, service)
        with pytest.raises(InvalidStateError):
            home.decrypt(blob)
        home.disconnect(id_)
        assert home.connect(id_).connection_error_code == "CLUSTER_NOT_FOUND"


# ------------------------------------------------------------------ what is refused


def test_key_stores_that_are_not_made(home: Home) -> None:
    with pytest.raises(ClusterNotFoundError):
        home.create(cluster_id="cluster-2222222222x")
    with pytest.raises(ClusterNotActiveError):
        home.create(cluster_id=ABSENT)
    with pytest.raises(IncorrectTrustAnchorError):
        home.create(cluster_id=UNRELATED)
    with pytest.raises(UnsupportedOperationError):
        home.create(custom_key_store_type="EXTERNAL_KEY_STORE")
    with pytest.raises(KmsValidationError):
        home.create(cluster_id="/usr/lib/softhsm/libsofthsm2.so")
    with pytest.raises(KmsValidationError, match="KeyStorePassword is required"):
        home.service.perform(
            ROOT,
            CreateCustomKeyStoreRequest(
                custom_key_store_name="mine",
                cloud_hsm_cluster_id=CLUSTER,
                trust_anchor_certificate=CERTIFICATE,
            ),
        )
    home.create()
    with pytest.raises(ClusterInUseError):
        home.create("other")
    with pytest.raises(CustomKeyStoreNameInUseError):
        home.create(cluster_id=RELATED)
    listed = home.service.perform(ROOT, DescribeCustomKeyStoresRequest()).custom_key_stores
    assert [entry.custom_key_store_name for entry in listed] == ["mine"]


def test_an_account_has_ten_at_most(home: Home, memory_path: Path) -> None:
    cluster = home.service._key_stores.clusters[CLUSTER]
    many = {f"cluster-2222222222{'abcdefghijk'[n]}": cluster for n in range(11)}
    home.service._key_stores.clusters = many
    for number, cluster_id in enumerate(list(many)[:10]):
        home.create(f"store {number}", cluster_id)
    with pytest.raises(LimitExceededError):
        home.create("one more", list(many)[10])
    seen: list[str] = []
    marker: str | None = None
    while True:
        page = home.service.perform(ROOT, DescribeCustomKeyStoresRequest(limit=4, marker=marker))
        seen += [entry.custom_key_store_name for entry in page.custom_key_stores]
        marker = page.next_marker
        assert page.truncated is (marker is not None)
        if marker is None:
            break
    assert sorted(seen) == sorted(f"store {number}" for number in range(10))


def test_updates(home: Home) -> None:
    id_, other = home.create(), home.create("other", RELATED)

    def update(**members: str) -> None:
        request = UpdateCustomKeyStoreRequest(custom_key_store_id=id_, **members)
        home.service.perform(ROOT, request)

    with pytest.raises(ClusterNotRelatedError):
        update(cloud_hsm_cluster_id=UNRELATED)
    with pytest.raises(ClusterInUseError):
        update(cloud_hsm_cluster_id=RELATED)
    with pytest.raises(CustomKeyStoreNameInUseError):
        update(new_custom_key_store_name="other")
    home.connect(id_)
    update(new_custom_key_store_name="renamed")
    assert home.describe(id_).custom_key_store_name == "renamed"
    assert home.describe(id_).connection_state == "CONNECTED"
    with pytest.raises(CustomKeyStoreInvalidStateError):
        update(key_store_password=CLUSTER_PIN)
    by_name = DescribeCustomKeyStoresRequest(custom_key_store_name="renamed")
    (found,) = home.service.perform(ROOT, by_name).custom_key_stores
    assert found.custom_key_store_id == id_
    with pytest.raises(CustomKeyStoreNotFoundError):
        home.service.perform(ROOT, DescribeCustomKeyStoresRequest(custom_key_store_name="mine"))
    with pytest.raises(KmsValidationError):
        home.service.perform(
            ROOT,
            DescribeCustomKeyStoresRequest(
                custom_key_store_id=other, custom_key_store_name="other"
            ),
        )


def test_strangers_are_refused(home: Home) -> None:
    id_ = home.create()
    requests: tuple[Request[Any], ...] = (
        DescribeCustomKeyStoresRequest(),
        ConnectCustomKeyStoreRequest(custom_key_store_id=id_),
        DisconnectCustomKeyStoreRequest(custom_key_store_id=id_),
        UpdateCustomKeyStoreRequest(custom_key_store_id=id_),
        DeleteCustomKeyStoreRequest(custom_key_store_id=id_),
    )
    for request in requests:
        with pytest.raises(AccessDeniedError):
            home.service.perform(STRANGER, request)


# ------------------------------------------------------------------ deletion


def test_a_key_deleted_in_a_key_store_is_gone_from_it(home: Home) -> None:
    id_ = home.create()
    home.connect(id_)
    home.make_key(id_)
    kept = home.make_key(id_, "22222222-2222-4333-8444-555555555555")
    kept_blob, gone_blob = home.encrypt(kept), home.encrypt()
    with home.service._catalog.changing() as change:
        gone = get_key(change, KEY_ID)
        assert gone is not None
        change.delete(KEYS, next(i.id for i in change.items(KEYS) if KEY_ID in i.id))
        mark_rewrap_due(change, gone)
    home.disconnect(id_)
    home.service.rewrap_all()
    with home.service._catalog.reading() as view:
        assert is_rewrap_due(view)  # as long as the token cannot be reached
    home.connect(id_)
    home.service.rewrap_all()
    with home.service._catalog.reading() as view:
        assert not is_rewrap_due(view)
    assert home.decrypt(kept_blob) == b"text"
    # Its row comes back from an older catalogue, and opens no more.
    with home.service._catalog.changing() as change:
        put_key(change, gone)
    with pytest.raises(IntegrityError, match="does not have"):
        home.decrypt(gone_blob)


def test_no_plaintext_stays_in_its_process(home: Home) -> None:
    """Nor on the way: what the process was told or said is wiped on both sides."""
    home.connect(home.create())
    [entry] = home.service.perform(ROOT, DescribeCustomKeyStoresRequest()).custom_key_stores
    home.make_key(entry.custom_key_store_id)
    plaintext = bytearray(os.urandom(64))
    wanted = traces(bytes(plaintext))
    request = EncryptRequest(key_id=KEY_ID, plaintext=plaintext)
    blob = home.service.perform(ROOT, request).ciphertext_blob
    assert home.decrypt(blob) == plaintext
    [pid] = home.processes()
    assert found_in_process(pid, wanted) == set()
