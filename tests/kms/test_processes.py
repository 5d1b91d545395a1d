"""Several processes in one home at once, each on its own copy of the token."""

import subprocess
import sys
from pathlib import Path

from tests.fakes.kms import ACCOUNT, REGION, ROOT
from volcrypt.kms.calls import CALLS
from volcrypt.kms.home import create_kms, open_kms
from volcrypt.kms.messages.data import DecryptRequest, EncryptRequest
from volcrypt.kms.messages.keys import ListKeysRequest

WORKER = """
import sys
from pathlib import Path
from tests.fakes.kms import ACCOUNT, REGION, ROOT
from volcrypt.errors import NameTakenError
from volcrypt.kms.home import open_kms
from volcrypt.kms.messages.data import (DecryptRequest, EncryptRequest)
from volcrypt.kms.messages.keys import (CreateKeyRequest)
from volcrypt.kms.register import RegisterEntry

home, shared, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with open_kms(home / "kms", home / "run", account=ACCOUNT, region=REGION) as service:
    for round in range(8):
        made = service.perform(ROOT, CreateKeyRequest()).key_metadata.key_id
        for key in (made, shared):
            request = EncryptRequest(key_id=key, plaintext=bytearray(b"text"))
            blob = service.perform(ROOT, request).ciphertext_blob
            assert service.perform(ROOT, DecryptRequest(ciphertext_blob=blob)).plaintext == b"text"
        try:
            service.register.apply(put=[
                RegisterEntry(kind="volume", id=f"{number}-{round}", name=f"name-{round}",
                              counter=1, digest=bytes(32)),
            ])
            print("name", round)
        except NameTakenError:
            pass
        print("key", made)
"""
WORKERS = 4


def test_processes_side_by_side(memory_path: Path) -> None:
    home = memory_path
    create_kms(home / "kms", home / "run", account=ACCOUNT, region=REGION, pin=None)
    with open_kms(home / "kms", home / "run", account=ACCOUNT, region=REGION) as service:
        shared = service.call(ROOT, "CreateKey", {})["KeyMetadata"]["KeyId"]
        # This process stays, with a cache of its own, while the others work.
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, home, shared, str(number)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(WORKERS)
        ]
        lines: list[list[str]] = []
        for process in processes:
            output, _ = process.communicate()
            assert process.returncode == 0
            lines += [line.split() for line in output.splitlines()]
        keys = {words[1] for words in lines if words[0] == "key"}
        assert len(keys) == WORKERS * 8
        listed = service.perform(ROOT, ListKeysRequest(limit=1000)).keys
        assert {key.key_id for key in listed} == keys | {shared}
        # Each name was given exactly once.
        assert sorted(words[1] for words in lines if words[0] == "name") == list("01234567")
        assert len(service.register.entries("volume")) == 8
        sealed = service.perform(ROOT, EncryptRequest(key_id=shared, plaintext=bytearray(b"x")))
        request = DecryptRequest(ciphertext_blob=sealed.ciphertext_blob)
        assert service.perform(ROOT, request).plaintext == b"x"
        assert service.audit_log.verify(service.audit_head()) == 0
        names = [record.event_name for record in service.audit_log.read_records()]
        assert names.count("Encrypt") == WORKERS * 16 + 1
        assert "RecoverAuditLog" not in names
        # Every process took its calls under the shared key out of one counter.
        with service._catalog.reading() as view:
            assert view.count(CALLS) == WORKERS * 8 + 1
    assert [path.name for path in (home / "run").iterdir()] == ["token.lock"]
