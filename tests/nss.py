"""A token of NSS, which is another PKCS#11 module than SoftHSM and other code altogether."""

import subprocess
from pathlib import Path

from volcrypt.kms.remote_store import Cluster

NSS_PIN = "the pin of NSS"
_SOURCE = Path(__file__).with_name("nss_module.c")


def make_nss_cluster(directory: Path) -> Cluster:
    """A new token in `directory`, and the module that opens it."""
    token = directory / "token"
    token.mkdir(parents=True)
    pin = directory / "pin"
    pin.write_text(f"{NSS_PIN}\n")
    subprocess.run(["certutil", "-N", "-d", f"sql:{token}", "-f", pin], check=True)
    module = directory / "nss.so"
    define = f'-DDIRECTORY="{token}"'
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-Wall", "-Werror", define, "-o", module, _SOURCE], check=True
    )
    return Cluster(module=module, token_label="NSS Certificate DB")
