"""The daemon as a process: how it starts, stops, is killed, and where it listens."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.command import VOLCRYPT
from tests.strace import injection, strace
from tests.wire.served import served
from tests.wire.test_connections import is_closed, list_keys, read_answer
from volcrypt.operations.audit import verify_audit
from volcrypt.operations.home import Home
from volcrypt.operations.home_directory import init_home
from volcrypt.settings import runtime_root


def test_it_stops_when_it_is_told_to(tmp_path: Path) -> None:
    with served(tmp_path) as daemon:
        key_id = daemon.client().create_key()["KeyMetadata"]["KeyId"]
        for number in (signal.SIGTERM, signal.SIGINT):
            idle = daemon.connect()
            assert daemon.stop(number) == ""
            assert is_closed(idle)
            idle.close()
            with pytest.raises(ConnectionError):
                daemon.connect()
            assert not (daemon.runtime / "kms.sock").exists()
            daemon.start()
            assert daemon.client().describe_key(KeyId=key_id)["KeyMetadata"]["KeyId"] == key_id


def test_a_stop_finishes_what_was_begun(tmp_path: Path) -> None:
    """Who got no answer was refused as a whole: no request is left without one."""
    with served(tmp_path) as daemon:
        connections = [daemon.connect() for _ in range(32)]
        for connection in connections:
            connection.sendall(list_keys())
        read_answer(connections[0])
        daemon.stop()
        answers = 0
        for connection in connections[1:]:
            with connection:
                try:
                    assert read_answer(connection)[0] == 200
                    answers += 1
                except ConnectionError:
                    continue
        connections[0].close()
        assert answers > 0


def test_a_second_daemon_is_refused(tmp_path: Path) -> None:
    with served(tmp_path) as daemon:
        second = subprocess.run(
            [VOLCRYPT, "--home", daemon.home, "kms", "serve", "--listen", "127.0.0.1:0"],
            check=False,
            capture_output=True,
            text=True,
        )
        assert second.returncode == 7
        assert "is held by volcrypt kms serve (process" in second.stderr
        assert daemon.client().list_keys()["Keys"] == []


def test_a_kill_under_load_loses_no_key(tmp_path: Path) -> None:
    with served(tmp_path) as daemon:
        acknowledged: list[tuple[str, bytes]] = []

        def load() -> None:
            client = daemon.client()
            try:
                while True:
                    key_id = client.create_key()["KeyMetadata"]["KeyId"]
                    blob = client.encrypt(KeyId=key_id, Plaintext=b"text")["CiphertextBlob"]
                    acknowledged.append((key_id, blob))
            except (BotoCoreError, ClientError):
                return

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(acknowledged) < 20:
            threading.Event().wait(0.01)
        daemon.kill()
        for thread in threads:
            thread.join()
        daemon.start()
        client = daemon.client()
        for key_id, blob in acknowledged:
            opened = client.decrypt(CiphertextBlob=blob)
            assert (opened["KeyId"].rpartition("/")[2], opened["Plaintext"]) == (key_id, b"text")


def make_keys(client: Any, made: list[str]) -> bool:
    """Some keys; whether one was refused, and one was made after that."""
    deadline = time.monotonic() + 30
    was_refused = False
    for _ in range(5):
        while True:
            try:
                made.append(client.create_key()["KeyMetadata"]["KeyId"])
                break
            except ClientError:
                was_refused = True
                assert time.monotonic() < deadline, "it does not go on"
                time.sleep(0.05)
    return was_refused


def test_a_sync_that_fails_needs_no_new_start(tmp_path: Path) -> None:
    """Of log, catalogue and head: requests are refused until all was opened again, by itself."""
    made: list[str] = []
    with served(tmp_path) as daemon:
        client = daemon.client()
        assert not make_keys(client, made)
        refusals = 0
        for nth in range(1, 5):
            with strace(daemon.pid, *injection("fdatasync,fsync", f"error=EIO:when={nth}")):
                refusals += make_keys(client, made)
        # SQLite ignores what becomes of one of them, and may.
        assert refusals >= 3
        assert "opened again" in daemon.stop()
        daemon.start()
        client = daemon.client()
        for key in made:
            assert client.describe_key(KeyId=key)["KeyMetadata"]["Enabled"]
        daemon.stop()
        with Home(daemon.home, runtime_root()) as home:
            assert verify_audit(home).unsealed == 0


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with served(tmp_path, listen=None, socket=str(path)) as daemon:
        assert daemon.urls == [f"unix:{path}"]
        assert path.stat().st_mode & 0o777 == 0o600
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                connection.sendall(list_keys())
                assert read_answer(connection)[0] == 200
            daemon.kill()  # its file stays, and does not keep the next one from starting
            daemon.start()
        daemon.stop()
        assert not path.exists()


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "volcrypt test")])
    now = datetime.now(UTC)
    import ipaddress

    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "cert.pem", directory / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def test_tls(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    options = {"tls_certificate": str(certificate), "tls_key": str(key)}
    with served(tmp_path, listen="0.0.0.0:0", **options) as daemon:
        port = daemon.url.rpartition(":")[2]
        url = f"https://127.0.0.1:{port}"
        client = daemon.client(endpoint_url=url, verify=str(certificate))
        assert client.list_keys()["Keys"] == []
        with pytest.raises(BotoCoreError):  # nobody vouches for it
            daemon.client(endpoint_url=url).list_keys()
        with pytest.raises((ClientError, BotoCoreError)):
            daemon.client(endpoint_url=f"http://127.0.0.1:{port}").list_keys()
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname = False
        old.verify_mode = ssl.CERT_NONE
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            old.minimum_version = ssl.TLSVersion.TLSv1
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        plain = socket.create_connection(("127.0.0.1", int(port)), timeout=10)
        with plain, pytest.raises(OSError):  # noqa: PT011 whatever the library calls it
            old.wrap_socket(plain)


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--listen", "0.0.0.0:0"], 2, "plain HTTP would carry keys in the clear"),
        (["--listen", "[::]:0"], 2, "plain HTTP would carry keys in the clear"),
        (["--listen", "nonsense"], 2, "no address to listen on"),
        (["--listen", "127.0.0.1:99999"], 2, "no address to listen on"),
        (["--tls-cert", "/dev/null"], 2, "go together"),
        (["--serve-region", "eu-west-9"], 2, "eu-west-9 is not one of this home's: us-east-1"),
        (["--listen", "127.0.0.1:0", "--socket", "x"], 2, "exclude each other"),
        (["--socket", "occupied"], 1, "is no socket"),
    ],
)
def test_where_it_does_not_listen(tmp_path: Path, options: list[str], code: int, text: str) -> None:
    home = tmp_path / "home"
    init_home(home, runtime_root(), account="000000000000", region="us-east-1", pin=None)
    (tmp_path / "occupied").touch()
    done = subprocess.run(
        [VOLCRYPT, "--home", home, "kms", "serve", *options],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_certificates_are_refused(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    other_key = make_certificate(tmp_path / "other")[1]
    for paths in ((key, key), (certificate, other_key)):
        options = {"tls_certificate": str(paths[0]), "tls_key": str(paths[1])}
        with pytest.raises(RuntimeError, match="ConfigurationError"), served(tmp_path, **options):
            pass


def test_it_tells_systemd_and_takes_its_sockets(tmp_path: Path) -> None:
    notes = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notes.bind(str(tmp_path / "notify"))
    notes.settimeout(10)
    with served(tmp_path) as daemon, notes:
        daemon.stop()
        with socket.socket() as passed:
            passed.bind(("127.0.0.1", 0))
            passed.listen()
            # As systemd does: descriptor 3, and the pid of the process itself.
            program = (
                "import os, sys; os.dup2(int(sys.argv[1]), 3); "
                "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid())); "
                "os.execv(sys.executable, [sys.executable, '-m', 'tests.wire.serve_program', "
                "*sys.argv[2:]])"
            )
            process = subprocess.Popen(
                [sys.executable, "-c", program, str(passed.fileno()), daemon.home, "{}"],
                pass_fds=[passed.fileno()],
                cwd=Path(__file__).parents[2],
                env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
                stdout=subprocess.PIPE,
                text=True,
            )
            try:
                assert notes.recv(100) == b"READY=1"
                assert process.stdout is not None
                port = passed.getsockname()[1]
                assert process.stdout.readline() == f'["http://127.0.0.1:{port}"]\n'
                client: Any = daemon.client(endpoint_url=f"http://127.0.0.1:{port}")
                assert client.list_keys()["Keys"] == []
                process.terminate()
                assert notes.recv(100) == b"STOPPING=1"
            finally:
                process.terminate()
                process.communicate(timeout=20)
            assert process.returncode == 0


def test_nobody_answers_after_the_end(tmp_path: Path) -> None:
    with served(tmp_path) as daemon:
        client = daemon.client()
        client.list_keys()
        daemon.stop()
        with pytest.raises(EndpointConnectionError):
            client.list_keys()


def test_a_flood_is_one_record(tmp_path: Path) -> None:
    with served(tmp_path) as daemon:
        wrong = daemon.client(aws_secret_access_key="wrong")
        for _ in range(20):
            with pytest.raises(ClientError):
                wrong.list_keys()
        daemon.stop()
        text = "".join(path.read_text() for path in (daemon.home / "kms" / "audit").glob("*.jsonl"))
        assert text.count("UnauthenticatedRequests") == 1
        assert '"InvalidSignatureException":20' in text
        assert text.count("\n") == 1


def test_the_command_prints_where_it_serves(tmp_path: Path) -> None:
    home = tmp_path / "home"
    init_home(home, runtime_root(), account="000000000000", region="us-east-1", pin=None)
    process = subprocess.Popen(
        [VOLCRYPT, "--home", home, "kms", "serve", "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving the KMS at http://127.0.0.1:")
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_few_descriptors_mean_few_connections(tmp_path: Path) -> None:
    """Beyond them the oldest that never said who it is makes room."""
    with served(tmp_path) as daemon:
        daemon.stop()
        daemon.start(prefix=("prlimit", "--nofile=160:160"))
        with ExitStack() as stack:
            connections = [stack.enter_context(daemon.connect()) for _ in range(80)]
            assert connections[0].recv(1) == b""
            connections[-1].sendall(list_keys())
            assert read_answer(connections[-1])[0] == 200
