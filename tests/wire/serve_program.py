"""`volcrypt kms serve` with access keys that tests know: HOME [ENDPOINT OPTION VALUE]..."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.fakes.access_keys import MemoryAccessKeys
from volcrypt.daemons.kms import Endpoint, serve
from volcrypt.operations.home import Home
from volcrypt.operations.home_directory import make_runtime_directory
from volcrypt.settings import runtime_root


def main(home_path: str, endpoint_json: str) -> None:
    options = json.loads(endpoint_json)
    for name in ("socket", "tls_certificate", "tls_key"):
        if name in options:
            options[name] = Path(options[name])
    if "regions" in options:
        options["regions"] = frozenset(options["regions"])
    home = Home(Path(home_path), runtime_root())
    make_runtime_directory(home.runtime, home=home.path)

    def ready(urls: Sequence[str]) -> None:
        print(json.dumps(list(urls)), flush=True)

    serve(
        home.path / "kms",
        home.runtime,
        account=home.account,
        region=home.region,
        pin=None,
        endpoint=Endpoint(**options),
        access_keys=lambda _service: MemoryAccessKeys(),
        ready=ready,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
