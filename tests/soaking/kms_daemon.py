"""`volcrypt kms serve` under load, for the soak."""

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config

from tests.command import VOLCRYPT, Command

REQUESTS_A_SECOND: Final = 10
DEADLINE_SECONDS: Final = 120
POLICY: Final = (
    '{"Version": "2012-10-17", "Statement": '
    '[{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}'
)


class KmsDaemon:
    """`volcrypt kms serve`, and a thread that asks it for what customers ask."""

    def __init__(self, command: Command, directory: Path) -> None:
        self.requests = 0
        self._command = command
        self._errors = directory / "kms-errors"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._address = f"127.0.0.1:{probe.getsockname()[1]}"
        command.run("principal", "create", "soak")
        command.run("principal", "put-policy", "soak", "-", stdin=POLICY.encode())
        self._access = command.json("principal", "create-access-key", "soak")["AccessKey"]
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ending = False
        self._is_there = threading.Event()
        self._turn = threading.Lock()
        self._problem: BaseException | None = None
        self._latencies: list[float] = []
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.start()
        self._thread.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [
                    *(VOLCRYPT, "--home", self._command.home),
                    *("kms", "serve", "--listen", self._address),
                ],
                stdout=errors,
                stderr=errors,
            )
        host, _, port = self._address.rpartition(":")

        def answers() -> bool:
            with suppress(OSError), socket.create_connection((host, int(port)), 1):
                return True
            return False

        wait_until(answers)
        wait_until((self._command.runtime / "kms.sock").exists)
        self._is_there.set()

    def stop(self) -> None:
        with self._turn:
            self._is_there.clear()
            assert self._process is not None
            self._process.send_signal(signal.SIGTERM)
            code = self._process.wait(DEADLINE_SECONDS)
            assert code == 0, f"kms serve ended with {code}: {self._errors.read_text()[-2000:]}"

    def end(self) -> None:
        self._is_ending = True
        self._is_there.set()
        self._thread.join(DEADLINE_SECONDS)
        self.stop()
        self.check()

    def kill(self) -> None:
        self._is_ending = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        if self._problem is not None:
            raise self._problem

    def latencies(self) -> list[float]:
        taken, self._latencies = self._latencies, []
        return taken

    def _client(self) -> Any:
        return boto3.client(
            "kms",
            region_name="us-east-1",
            endpoint_url=f"http://{self._address}",
            aws_access_key_id=self._access["AccessKeyId"],
            aws_secret_access_key=self._access["SecretAccessKey"],
            config=Config(retries={"total_max_attempts": 1}, read_timeout=60),
        )

    def _ask(self) -> None:
        try:
            client = self._client()
            key = client.create_key(Description="of the soak")["KeyMetadata"]["KeyId"]
            while not self._is_ending:
                self._is_there.wait()
                with self._turn:
                    if not self._is_there.is_set() or self._is_ending:
                        continue
                    self._ask_once(client, key)
                time.sleep(1 / REQUESTS_A_SECOND)
        except BaseException as error:
            self._problem = error

    def _ask_once(self, client: Any, key: str) -> None:
        self.requests += 1
        context = {"number": str(self.requests)}
        text = b"%d " % self.requests * 50
        started = time.monotonic()
        made = client.encrypt(KeyId=key, Plaintext=text, EncryptionContext=context)
        self._latencies.append(time.monotonic() - started)
        blob = made["CiphertextBlob"]
        found = client.decrypt(CiphertextBlob=blob, EncryptionContext=context)
        assert found["Plaintext"] == text, "the KMS decrypted something else"
        client.generate_data_key(KeyId=key, KeySpec="AES_256")


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)
