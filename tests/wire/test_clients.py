"""The clients that people have, unchanged, against a real daemon: boto3, the aws command line, the
AWS Encryption SDK."""

import base64
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.fakes.access_keys import USER_KEY, USER_SECRET
from tests.wire.served import Served
from tests.wire.signing import ACCESS_KEY, SECRET

AWS = Path(sys.executable).with_name("aws")
CONTEXT = {"purpose": "test", "empty": ""}


@pytest.fixture(scope="module")
def kms(daemon: Served) -> Any:
    return daemon.client()


@pytest.fixture(scope="module")
def key_arn(kms: Any) -> str:
    arn: str = kms.create_key(Description="of the tests")["KeyMetadata"]["Arn"]
    return arn


def test_the_life_of_a_key(kms: Any) -> None:
    made = kms.create_key(Description="a key")["KeyMetadata"]
    assert made["Description"] == "a key"
    assert kms.describe_key(KeyId=made["Arn"])["KeyMetadata"] == made
    kms.create_alias(AliasName="alias/life", TargetKeyId=made["KeyId"])
    assert kms.describe_key(KeyId="alias/life")["KeyMetadata"]["KeyId"] == made["KeyId"]
    kms.disable_key(KeyId=made["KeyId"])
    with pytest.raises(kms.exceptions.DisabledException) as disabled:
        kms.encrypt(KeyId=made["KeyId"], Plaintext=b"x")
    assert disabled.value.response["Error"]["Message"] == f"{made['Arn']} is disabled."
    kms.enable_key(KeyId=made["KeyId"])
    kms.delete_alias(AliasName="alias/life")
    with pytest.raises(kms.exceptions.NotFoundException):
        kms.describe_key(KeyId="alias/life")


def test_data_operations(kms: Any, key_arn: str) -> None:
    plaintext = bytes(range(256)) * 16
    sealed = kms.encrypt(KeyId=key_arn, Plaintext=plaintext, EncryptionContext=CONTEXT)
    opened = kms.decrypt(CiphertextBlob=sealed["CiphertextBlob"], EncryptionContext=CONTEXT)
    assert (opened["Plaintext"], opened["KeyId"]) == (plaintext, key_arn)
    with pytest.raises(kms.exceptions.InvalidCiphertextException) as invalid:
        kms.decrypt(CiphertextBlob=sealed["CiphertextBlob"], EncryptionContext={"purpose": "x"})
    assert invalid.value.response["Error"]["Message"] == ""
    other = kms.create_key()["KeyMetadata"]["Arn"]
    moved = kms.re_encrypt(
        CiphertextBlob=sealed["CiphertextBlob"],
        SourceEncryptionContext=CONTEXT,
        DestinationKeyId=other,
    )
    assert kms.decrypt(CiphertextBlob=moved["CiphertextBlob"])["Plaintext"] == plaintext
    with pytest.raises(kms.exceptions.IncorrectKeyException):
        kms.decrypt(CiphertextBlob=moved["CiphertextBlob"], KeyId=key_arn)
    born = kms.generate_data_key_without_plaintext(KeyId=key_arn, KeySpec="AES_256")
    assert len(kms.decrypt(CiphertextBlob=born["CiphertextBlob"])["Plaintext"]) == 32
    assert len(kms.generate_random(NumberOfBytes=1000)["Plaintext"]) == 1000


def test_paginators(kms: Any) -> None:
    made = {kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(7)}
    for number, key_id in enumerate(sorted(made)):
        kms.create_alias(AliasName=f"alias/page{number}", TargetKeyId=key_id)
    pages = list(kms.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 3}))
    assert all(len(page["Keys"]) <= 3 for page in pages)
    listed = [key["KeyId"] for page in pages for key in page["Keys"]]
    assert len(listed) == len(set(listed))
    assert made <= set(listed)
    aliases = kms.get_paginator("list_aliases").paginate(PaginationConfig={"PageSize": 2})
    names = [alias["AliasName"] for page in aliases for alias in page["Aliases"]]
    assert {f"alias/page{number}" for number in range(7)} <= set(names)


def test_the_request_id_is_the_audit_logs(daemon: Served, kms: Any, key_arn: str) -> None:
    allowed = kms.describe_key(KeyId=key_arn)["ResponseMetadata"]["RequestId"]
    with pytest.raises(ClientError) as refused:
        kms.describe_key(KeyId="x")
    with pytest.raises(ClientError) as unreadable:
        kms.sign(KeyId=key_arn, Message=b"x", SigningAlgorithm="ECDSA_SHA_256")
    ids = [
        json.loads(line)["requestID"]
        for file in (daemon.home / "kms" / "audit").glob("*.jsonl")
        for line in file.read_text().rstrip("\0").splitlines()
    ]
    assert ids[-3:] == [
        allowed,
        refused.value.response["ResponseMetadata"]["RequestId"],
        unreadable.value.response["ResponseMetadata"]["RequestId"],
    ]


def test_another_principal_is_denied(daemon: Served, key_arn: str) -> None:
    alice = daemon.client(aws_access_key_id=USER_KEY, aws_secret_access_key=USER_SECRET)
    with pytest.raises(ClientError) as denied:
        alice.describe_key(KeyId=key_arn)
    assert denied.value.response["Error"]["Code"] == "AccessDeniedException"
    assert denied.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_a_wrong_clock_is_corrected_by_the_client(
    daemon: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client says in which hour it lives; an hour off is refused."""
    import botocore.auth

    now = botocore.auth.get_current_datetime
    from datetime import timedelta

    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: now() - timedelta(hours=1))
    with pytest.raises(ClientError) as expired:
        daemon.client().list_keys()
    assert expired.value.response["Error"]["Code"] == "InvalidSignatureException"
    assert "Signature expired" in expired.value.response["Error"]["Message"]


def test_sts(daemon: Served) -> None:
    got = daemon.client("sts").get_caller_identity()
    assert got["Arn"] == "arn:aws:iam::000000000000:root"
    assert got["Account"] == "000000000000"
    with pytest.raises(ClientError) as denied:
        daemon.client("sts", aws_secret_access_key="wrong").get_caller_identity()
    assert denied.value.response["Error"]["Code"] == "SignatureDoesNotMatch"


def test_the_aws_command_line(daemon: Served, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "AWS_ENDPOINT_URL_KMS": daemon.url,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }

    def aws(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, AWS, "kms", *words],
            env=environment,
            check=False,
            capture_output=True,
            text=True,
        )

    made = json.loads(aws("create-key", "--description", "cli").stdout)["KeyMetadata"]
    done = aws("generate-data-key", "--key-id", made["KeyId"], "--key-spec", "AES_256")
    assert len(base64.b64decode(json.loads(done.stdout)["Plaintext"])) == 32
    failed = aws("describe-key", "--key-id", "alias/nothing")
    assert failed.returncode != 0
    assert "(NotFoundException)" in failed.stderr


def test_the_aws_encryption_sdk(daemon: Served, key_arn: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", daemon.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import aws_encryption_sdk
        from aws_encryption_sdk import CommitmentPolicy

        client = aws_encryption_sdk.EncryptionSDKClient(
            commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
        )
        provider = aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[key_arn])
        sealed, _ = client.encrypt(
            source=b"a message", key_provider=provider, encryption_context=CONTEXT
        )
        opened, header = client.decrypt(source=sealed, key_provider=provider)
    assert opened == b"a message"
    assert CONTEXT.items() <= header.encryption_context.items()
