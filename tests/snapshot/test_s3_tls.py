"""A bucket behind TLS with a certificate of its own, and a customer key, which goes only there."""

import datetime
import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.command import disposable_home
from tests.s3_server import ACCESS_KEY, BUCKET, IMPATIENT, SECRET_KEY, S3Server, aws_environment
from volcrypt.errors import ObjectStoreError, VolcryptError
from volcrypt.snapshot.s3 import BucketEncryption


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that only its own file vouches for, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "volcrypt tests")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "certificate.pem", directory / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = make_certificate(directory)
    with S3Server(directory / "server", certificate, key) as server:
        server.make_bucket(BUCKET)
        yield server


def test_a_customer_key_is_needed_again_to_read(tls_server: S3Server, prefix: str) -> None:
    assert tls_server.certificate is not None
    place = {
        "endpoint": tls_server.tls_endpoint,
        "ca_certificates": tls_server.certificate.read_bytes(),
    }
    key = os.urandom(32)
    sealed = BucketEncryption(algorithm="sse-c", customer_key=key)
    objects = tls_server.objects(prefix, encryption=sealed, **place)
    data = os.urandom(100_000)
    assert objects.put_if_absent("a", data)
    assert not objects.put_if_absent("a", data)
    assert objects.get("a") == data
    assert list(objects.list("")) == ["a"]
    other = BucketEncryption(algorithm="sse-c", customer_key=os.urandom(32))
    for encryption in (None, other):
        with pytest.raises(VolcryptError, match="snapshot store"):
            tls_server.objects(prefix, encryption=encryption, **place).get("a")
    assert repr(key) not in repr(sealed)
    untrusted = place | {"ca_certificates": None, "patience": IMPATIENT}
    with pytest.raises(ObjectStoreError, match="certificate"):
        tls_server.objects(prefix, **untrusted).get("a")


def test_a_store_under_a_customer_key(
    tls_server: S3Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in aws_environment(ACCESS_KEY, SECRET_KEY).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tls_server.certificate))
    key = tmp_path / "customer-key"
    key.write_bytes(os.urandom(32))
    with disposable_home(tmp_path / "home") as home:
        home.run("init")
        home.run("volume", "create", "--size", "1MiB", "--name", "small")
        place = ("--url", f"s3://{BUCKET}/{prefix}", "--endpoint", tls_server.tls_endpoint)
        home.run("store", "create", "sealed", *place, "--sse", f"customer:{key}")
        home.run("snapshot", "create", "--wait", "small", "--store", "sealed")
        home.run("store", "check", "sealed")
        found = list(home.home.rglob("*"))
        assert not any(key.read_bytes() in path.read_bytes() for path in found if path.is_file())
        key.write_bytes(os.urandom(32))
        home.fails(5, "store", "check", "sealed")
        key.write_bytes(b"short")
        home.fails(2, "store", "check", "sealed")
        key.unlink()
        assert "cannot read the customer key" in home.fails(1, "store", "check", "sealed")
