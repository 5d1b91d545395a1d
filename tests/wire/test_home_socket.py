"""The KMS of a home in process and through the socket: one suite; and what the socket refuses."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.fakes.kms import ACCOUNT, REGION, ROOT, USER, VOLUMES, MemoryKms, memory_kms
from volcrypt.errors import (
    AccessDeniedError,
    KeyNotFoundError,
    NameTakenError,
    TryAgainError,
    UnsupportedOperationError,
)
from volcrypt.kms.messages.data import DecryptRequest, EncryptRequest, GenerateDataKeyRequest
from volcrypt.kms.messages.keys import CreateKeyRequest, DescribeKeyRequest, ListKeysRequest
from volcrypt.kms.messages.volume_settings import (
    EnableEbsEncryptionByDefaultRequest,
    ModifyEbsDefaultKmsKeyIdRequest,
)
from volcrypt.kms.model import VolumeSettings
from volcrypt.kms.register import RegisterEntry
from volcrypt.wire.engine import Engine
from volcrypt.wire.home_client import HomeChannel, HomeClient
from volcrypt.wire.home_messages import MAX_LINE_BYTES, PerformArguments
from volcrypt.wire.home_socket import HomeSocket, peer_user
from volcrypt.wire.listener import listen_unix


@contextmanager
def home_socket(kms: MemoryKms, path: Path, *, user: int) -> Iterator[list[BaseException]]:
    """Served by a loop in a thread of its own; gives the bugs that were reported."""
    bugs: list[BaseException] = []
    started, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def run() -> None:
        engine = Engine(kms.service, report=bugs.append)
        engine.start()
        served = HomeSocket(kms.service, engine, users=frozenset({user}), report=bugs.append)
        server = await served.listen(listen_unix(path).socket)
        started.set()
        await stop.wait()
        server.close()
        served.close_connections()
        await asyncio.sleep(0)
        await engine.stop()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    started.wait()
    try:
        yield bugs
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@pytest.fixture
def memory(memory_path: Path) -> Iterator[MemoryKms]:
    with memory_kms(memory_path / "kms") as made:
        yield made


@pytest.fixture
def channel(memory: MemoryKms, memory_path: Path) -> Iterator[HomeChannel]:
    path = memory_path / "kms.sock"
    with home_socket(memory, path, user=os.geteuid()) as bugs:
        made = HomeChannel(path)
        yield made
        made.close()
    assert bugs == []


@pytest.fixture(params=["in process", "socket"])
def vault(request: pytest.FixtureRequest, memory: MemoryKms) -> Any:
    """`KmsService`, or what stands for it."""
    if request.param == "in process":
        return memory.service
    return HomeClient(request.getfixturevalue("channel"), account=ACCOUNT, region=REGION)


def entry(id_: str, name: str | None = None, counter: int = 1) -> RegisterEntry:
    return RegisterEntry(kind="volume", id=id_, name=name, counter=counter, digest=bytes(range(32)))


def test_requests(vault: Any) -> None:
    key = vault.perform(ROOT, CreateKeyRequest(description="x")).key_metadata
    assert vault.perform(ROOT, DescribeKeyRequest(key_id=key.key_id)).key_metadata == key
    context = {"a": "ü", "ü": "x y"}
    sealed = vault.perform(
        ROOT,
        EncryptRequest(
            key_id=key.arn, plaintext=bytearray(bytes(range(256))), encryption_context=context
        ),
    )
    opened = vault.perform(
        ROOT, DecryptRequest(ciphertext_blob=sealed.ciphertext_blob, encryption_context=context)
    )
    assert opened.plaintext == bytearray(bytes(range(256)))
    assert isinstance(opened.plaintext, bytearray)


def test_what_is_done_to_an_object_of_the_home_is_authorised(vault: Any, memory: MemoryKms) -> None:
    arn = vault.perform(ROOT, CreateKeyRequest()).key_metadata.arn
    context = {"volcrypt:volume-id": "vol-0123456789abcdef0"}
    vault.authorise(ROOT, "volcrypt:ExportHeader", key_arn=arn, context=context)
    with pytest.raises(AccessDeniedError, match=f"volcrypt:ExportHeader on resource: {arn}"):
        vault.authorise(USER, "volcrypt:ExportHeader", key_arn=arn, context=context)
    vault.authorise(ROOT, "volcrypt:ExportHeader", context=context)
    vault.authorise(ROOT, "volcrypt:Backup")
    allowed, denied, under_none, backup = memory.records()[-4:]
    assert allowed.request_parameters == {"keyId": arn, "encryptionContext": context}
    assert under_none.request_parameters == {"keyId": None, "encryptionContext": context}
    assert backup.request_parameters is None
    assert [len(r.resources) for r in (allowed, denied, under_none, backup)] == [1, 1, 0, 0]
    assert (allowed.error_code, denied.error_code) == (None, "AccessDenied")


def test_the_caller_is_who_it_says(vault: Any, memory: MemoryKms) -> None:
    vault.perform(VOLUMES, GenerateDataKeyRequest(key_id="alias/volcrypt/ebs", number_of_bytes=64))
    assert memory.records()[-1].user_identity.invoked_by == "ec2.us-east-1.amazonaws.com"
    with pytest.raises(AccessDeniedError, match="user/alice is not authorized"):
        vault.perform(USER, CreateKeyRequest())
    assert memory.records()[-1].user_identity.arn == USER.arn


def test_errors_come_with_class_text_hint_and_fields(vault: Any) -> None:
    with pytest.raises(KeyNotFoundError, match=r"^Invalid keyId 'x'$"):
        vault.perform(ROOT, DescribeKeyRequest(key_id="x"))
    vault.register.apply(put=[entry("vol-1", "a")])
    with pytest.raises(NameTakenError) as taken:
        vault.register.apply(put=[entry("vol-2", "a")])
    assert taken.value.name == "a"
    assert str(taken.value) == "a volume named a exists already"


def test_the_register(vault: Any) -> None:
    assert vault.register.get("volume", "vol-1") is None
    vault.register.apply(put=[entry("vol-1", "a"), entry("vol-2")])
    assert vault.register.get("volume", "vol-1") == entry("vol-1", "a")
    assert vault.register.find("volume", "a") == entry("vol-1", "a")
    assert vault.register.find("volume", "b") is None
    assert vault.register.entries("volume") == [entry("vol-1", "a"), entry("vol-2")]
    vault.register.apply(
        put=[entry("vol-1", "b", 2)],
        delete=[("volume", "vol-2")],
        expect={("volume", "vol-1"): 1, ("volume", "vol-3"): None},
    )
    assert vault.register.entries("volume") == [entry("vol-1", "b", 2)]
    with pytest.raises(TryAgainError):
        vault.register.apply(delete=[("volume", "vol-1")], expect={("volume", "vol-1"): 1})


def test_home_keys_and_the_audit_head(vault: Any, memory: MemoryKms) -> None:
    key = vault.derive_home_key(b"volume record\0vol-1")
    assert isinstance(key, bytearray)
    assert key == memory.service.derive_home_key(b"volume record\0vol-1")
    assert vault.derive_home_key(b"another") != key
    before = vault.audit_head()
    vault.perform(ROOT, ListKeysRequest())
    assert vault.audit_head().sequence == before.sequence + 1


def test_settings_for_new_volumes(vault: Any, memory: MemoryKms) -> None:
    assert vault.volume_settings(ACCOUNT, REGION) == VolumeSettings()
    vault.perform(ROOT, EnableEbsEncryptionByDefaultRequest())
    vault.perform(ROOT, ModifyEbsDefaultKmsKeyIdRequest(kms_key_id="arn:1", kms="aws"))
    expected = VolumeSettings(encryption_by_default=True, default_kms_keys={"aws": "arn:1"})
    assert vault.volume_settings(ACCOUNT, REGION) == expected
    assert memory.service.volume_settings(ACCOUNT, REGION) == expected
    assert vault.volume_settings(ACCOUNT, "elsewhere") == VolumeSettings()


def test_a_register_of_many_entries(vault: Any) -> None:
    many = [entry(f"vol-{number:05}", f"name-{number}") for number in range(3000)]
    vault.register.apply(put=many)
    assert vault.register.entries("volume") == many


def test_threads_share_a_client(vault: Any) -> None:
    key_id = vault.perform(ROOT, CreateKeyRequest()).key_metadata.key_id

    def work(number: int) -> bool:
        text = bytearray(f"text {number}".encode())
        sealed = vault.perform(ROOT, EncryptRequest(key_id=key_id, plaintext=bytearray(text)))
        request = DecryptRequest(ciphertext_blob=sealed.ciphertext_blob)
        return bool(vault.perform(ROOT, request).plaintext == text)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(64)))


def test_another_account_and_region(channel: HomeChannel, memory: MemoryKms) -> None:
    client = HomeClient(channel, account=ACCOUNT, region=REGION).scope(ACCOUNT, "eu-west-1")
    made = client.perform(ROOT, CreateKeyRequest()).key_metadata
    assert made.arn.startswith("arn:aws:kms:eu-west-1:000000000000:key/")
    client.authorise(ROOT, "volcrypt:Backup")
    assert memory.records()[-1].aws_region == "eu-west-1"


def test_only_the_owner_is_answered(memory: MemoryKms, memory_path: Path) -> None:
    path = memory_path / "other.sock"
    with home_socket(memory, path, user=os.geteuid() + 1):
        client = HomeClient(HomeChannel(path), account=ACCOUNT, region=REGION)
        with pytest.raises(TryAgainError):
            client.audit_head()
    assert memory.records() == []


def test_who_connects_is_known_by_user_not_by_group() -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("")  # a name that the kernel chooses
        listening.listen()
        program = f"import socket; socket.socket(socket.AF_UNIX).connect({listening.getsockname()})"
        other = ["setpriv", "--reuid=65534", f"--regid={os.getegid()}", "--clear-groups", "--"]
        subprocess.run([*other, sys.base_prefix + "/bin/python3", "-c", program], check=True)
        connection, _ = listening.accept()
        with connection:
            assert peer_user(connection) == 65534


def test_nobody_there(memory_path: Path) -> None:
    client = HomeClient(HomeChannel(memory_path / "no.sock"), account=ACCOUNT, region=REGION)
    with pytest.raises(TryAgainError, match="does not answer"):
        client.audit_head()


def test_a_daemon_that_comes_back(memory: MemoryKms, memory_path: Path) -> None:
    path = memory_path / "kms.sock"
    client = HomeClient(HomeChannel(path), account=ACCOUNT, region=REGION)
    for _ in range(2):
        with home_socket(memory, path, user=os.geteuid()):
            assert client.audit_head().sequence == 0
        with pytest.raises(TryAgainError):
            client.audit_head()
    client.close()


BAD_LINES = {
    "no JSON": b"nonsense\n",
    "no such call": b'{"call": "shell", "arguments": {}}\n',
    "a member too many": b'{"call": "audit_head", "arguments": {"x": 1}}\n',
    "wrong types": b'{"call": "register_get", "arguments": {"kind": 1, "id": "x"}}\n',
    "no UTF-8": b'{"call": "\xff", "arguments": {}}\n',
    "deep": b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_lines_get_an_error_and_the_connection_goes_on(
    channel: HomeChannel, memory_path: Path, name: str
) -> None:
    assert channel is not None
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(memory_path / "kms.sock"))
        file = connection.makefile("rwb")
        for line in (BAD_LINES[name], BAD_LINES[name]):
            file.write(line)
            file.flush()
            assert b'"class":"MalformedError"' in file.readline()
        file.write(b'{"call": "audit_head", "arguments": {}}\n')
        file.flush()
        assert file.readline().startswith(b'{"result":')
        file.close()


def test_an_operation_that_is_none(channel: HomeChannel) -> None:
    for operation in ("Nothing", "Paged", "", "perform_all"):
        arguments = PerformArguments(
            account=ACCOUNT,
            region=REGION,
            caller=ROOT,
            operation=operation,
            request=msgspec.Raw(b"{}"),
        )
        with pytest.raises(UnsupportedOperationError):
            channel.call(arguments, type(None))


def test_the_line_is_bounded(channel: HomeChannel, memory_path: Path) -> None:
    assert channel is not None
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(memory_path / "kms.sock"))
        with pytest.raises(OSError, match=r"pipe|reset"):
            fill(connection, MAX_LINE_BYTES * 2)


def fill(connection: socket.socket, count: int) -> None:
    piece = b"x" * 2**20
    for _ in range(count // len(piece)):
        connection.sendall(piece)
