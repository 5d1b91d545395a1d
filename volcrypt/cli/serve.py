"""`volcrypt kms serve`."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from volcrypt.access import clusters_of
from volcrypt.cli.pin import find_pin
from volcrypt.cli.session import Command, Session, pass_session
from volcrypt.errors import InvalidArgumentError

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(cls=Command)
@click.option(
    "--listen", metavar="HOST:PORT", help="Address [default: 127.0.0.1:8599]; port 0: any."
)
@click.option("--socket", type=click.Path(path_type=Path), help="HTTP on a Unix socket instead.")
@click.option("--tls-cert", type=_FILE, help="Certificate chain (PEM); needed off loopback.")
@click.option("--tls-key", type=_FILE, help="Its key (PEM).")
@click.option(
    "--metrics",
    metavar="HOST:PORT|PATH",
    help="Serve figures (OpenMetrics) there: a loopback address or a Unix socket.",
)
@click.option(
    "--serve-region",
    "regions",
    multiple=True,
    help="Serve this region only, not all of config.toml; repeat for several.",
)
@pass_session
def serve(
    session: Session,
    listen: str | None,
    socket: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    metrics: str | None,
    regions: tuple[str, ...],
) -> None:
    """Serve the KMS over HTTP as AWS speaks it, and to the other commands of this home.

    The other commands go through it while it runs. Access keys are made with 'volcrypt principal
    create-access-key'; every account and region of the home is served at one address.
    """
    from volcrypt.confinement import wipe_what_is_freed
    from volcrypt.daemons.kms import Endpoint
    from volcrypt.daemons.kms import serve as serve_kms
    from volcrypt.kms.home import keeps_pin
    from volcrypt.operations.home_directory import make_runtime_directory
    from volcrypt.wire.access_keys import HomeAccessKeys

    if (tls_cert is None) != (tls_key is None):
        raise InvalidArgumentError("--tls-cert and --tls-key go together")
    if listen is not None and socket is not None:
        raise InvalidArgumentError("--listen and --socket exclude each other")
    wipe_what_is_freed()
    home = session.home
    known = {home.region, *session.settings.kms.regions}
    for region in regions:
        if region not in known:
            raise InvalidArgumentError(
                f"region {region} is not one of this home's: {', '.join(sorted(known))}",
                hint="further ones are kms.regions in config.toml",
            )
    make_runtime_directory(home.runtime, home=home.path)
    directory = home.path / "kms"

    def ready(urls: Sequence[str]) -> None:
        if session.as_json:
            print(json.dumps({"Urls": list(urls), "Pid": os.getpid()}))
        else:
            for url in urls:
                print(f"serving the KMS at {url}")
        sys.stdout.flush()

    serve_kms(
        directory,
        home.runtime,
        account=home.account,
        region=home.region,
        pin=None
        if keeps_pin(directory)
        else find_pin(session.settings.kms, session.home_path, True),
        endpoint=Endpoint(
            listen=listen,
            socket=socket,
            tls_certificate=tls_cert,
            tls_key=tls_key,
            metrics=metrics,
            regions=frozenset(regions or known),
        ),
        access_keys=HomeAccessKeys,
        ready=ready,
        clusters=clusters_of(session.settings, session.home_path),
    )
