"""What the crash tests run under strace, and kill. Prints what it may rely on.

python -m tests.kms.crash_program init|login|create-key|rewrap HOME
"""

import sys
from contextlib import suppress
from pathlib import Path

from tests.fakes.kms import ACCOUNT, REGION, ROOT
from volcrypt.kms.home import create_kms, open_kms
from volcrypt.kms.messages.keys import CreateKeyRequest

BEGIN = "/volcrypt-crash-test-begins"
"""Opened, in vain, when the imports are done: there the steps begin."""


def main(step: str, home: Path) -> None:
    directory, runtime = home / "kms", home / "run"
    with suppress(FileNotFoundError):
        Path(BEGIN).open().close()
    if step == "init":
        create_kms(directory, runtime, account=ACCOUNT, region=REGION, pin=None)
        print("initialised", flush=True)
        return
    with open_kms(directory, runtime, account=ACCOUNT, region=REGION) as service:
        if step == "create-key":
            for _ in range(2):
                made = service.perform(ROOT, CreateKeyRequest()).key_metadata
                print(made.key_id, flush=True)
        if step == "rewrap":
            service.rewrap_all()
            print("rewrapped", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
