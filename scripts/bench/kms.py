"""The KMS over HTTP: requests a second and latency, beside moto's server in the same run.

Signatures are verified, policies evaluated and the audit log is durable; moto does none of that.
Both get the same requests from the same generator (`http_load`): GenerateDataKey and Decrypt, with
1 and 16 clients, over TCP and, where there is one, a Unix socket. "Half load" is half of the rate
that 16 clients reached, with requests that fall due at fixed times. Then the parts of a request by
themselves: where its time goes.
"""

import argparse
import base64
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from scripts.bench._lib import print_json, print_table
from scripts.bench.http_load import Load, Outcome
from scripts.bench.kms_parts import engine_us, signature_us
from scripts.bench.kms_servers import ACCESS_KEY, SECRET, moto, running, volcrypt
from volcrypt.settings import DEFAULT_REGION
from volcrypt.wire.claim import HttpRequest

CLIENTS = (1, 16)
OPERATIONS = ("GenerateDataKey", "Decrypt")


def sign(url: str, operation: str, members: dict[str, Any]) -> AWSRequest:
    """A request with a signature that holds for five minutes."""
    host = url.partition("://")[2]
    headers = {
        "Host": host,
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": f"TrentService.{operation}",
    }
    request = AWSRequest("POST", f"{url}/", headers=headers, data=json.dumps(members).encode())
    SigV4Auth(Credentials(ACCESS_KEY, SECRET), "kms", DEFAULT_REGION).add_auth(request)
    return request


def raw(request: AWSRequest) -> str:
    lines = ["POST / HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers.items())]
    lines.append(f"Content-Length: {len(request.data)}")
    return "\r\n".join(lines) + "\r\n\r\n" + str(request.data.decode())


def members_of(url: str) -> dict[str, dict[str, Any]]:
    """The members of each operation's request, on a new key of the server."""
    client = boto3.session.Session().client(
        "kms",
        endpoint_url=url,
        region_name=DEFAULT_REGION,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET,
    )
    key_id = client.create_key()["KeyMetadata"]["KeyId"]
    generate = {"KeyId": key_id, "NumberOfBytes": 32, "EncryptionContext": {"purpose": "bench"}}
    blob = client.generate_data_key(**generate)["CiphertextBlob"]
    decrypt = {
        "CiphertextBlob": base64.b64encode(blob).decode(),
        "EncryptionContext": {"purpose": "bench"},
    }
    return {"GenerateDataKey": generate, "Decrypt": decrypt}


def generate_load(load: Load) -> Outcome:
    """Run the generator in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.bench.http_load"],
        input=json.dumps(asdict(load)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the load generator failed: {done.stderr.strip().splitlines()[-1]}")
    outcome = Outcome(**json.loads(done.stdout))
    if outcome.failures:
        raise RuntimeError(f"{outcome.failures} of {outcome.count} requests failed")
    return outcome


def address_of(url: str) -> list[str | int]:
    host, _, port = url.partition("://")[2].rpartition(":")
    return [host, int(port)]


def measure(directory: Path, seconds: float) -> dict[str, dict[str, dict[str, float]]]:
    """By system and way, operation and clients: what came of it."""
    results: dict[str, dict[str, dict[str, float]]] = {}
    with ExitStack() as stack:
        url, socket = stack.enter_context(volcrypt(directory))
        moto_url = stack.enter_context(moto())
        systems: dict[str, tuple[str, list[str | int] | str]] = {
            "volcrypt, TCP": (url, address_of(url)),
            "volcrypt, Unix socket": (url, str(socket)),
            "moto, TCP": (moto_url, address_of(moto_url)),
        }
        members = {url: members_of(url) for url in (url, moto_url)}
        for operation in OPERATIONS:
            for name, (its_url, address) in systems.items():
                rows = results.setdefault(name, {})

                def load(clients: int, rate: float | None = None) -> Outcome:
                    request = raw(sign(its_url, operation, members[its_url][operation]))  # noqa: B023 called at once
                    return generate_load(
                        Load(
                            address=address,  # noqa: B023 called at once
                            requests=[request],
                            clients=clients,
                            seconds=seconds,
                            rate=rate,
                        )
                    )

                for clients in CLIENTS:
                    rows[f"{operation}, {clients} client{'s' * (clients > 1)}"] = asdict(
                        load(clients)
                    )
                most = rows[f"{operation}, {CLIENTS[-1]} clients"]["per_second"]
                rows[f"{operation}, half load"] = asdict(load(CLIENTS[-1], most / 2))
    return results


def measure_parts(directory: Path, seconds: float) -> dict[str, Any]:
    request = sign("http://127.0.0.1:80", "GenerateDataKey", {"KeyId": "x" * 36})
    received = HttpRequest(
        method="POST",
        path="/",
        query="",
        headers=[(name.lower(), str(value)) for name, value in request.headers.items()],
        body=request.data,
    )
    with running("bare") as url:
        bare = generate_load(
            Load(address=address_of(url), requests=[raw(request)], clients=16, seconds=seconds)
        )
    return {
        "http_us": 1e6 / bare.per_second,
        "signature_us": signature_us(received, time.time()),
        "engine_us": engine_us(directory),
    }


def show(results: dict[str, dict[str, dict[str, float]]], parts: dict[str, Any]) -> None:
    names = list(results)
    rows = []
    for row in results[names[0]]:
        cells = [row]
        for name in names:
            found = results[name][row]
            cells.append(
                f"{found['per_second']:,.0f}/s  {found['p50_ms']:.2f}  {found['p99_ms']:.2f} ms"
            )
        ratio = results[names[0]][row]["per_second"] / results[names[-1]][row]["per_second"]
        cells.append(f"{ratio:.1f}x")
        rows.append(cells)
    print_table(["rate, p50, p99", *names, "TCP/moto"], rows)
    print()
    rows = [["HTTP alone (16 clients)", "", "", "", f"{parts['http_us']:.0f} us"]]
    rows.append(["signature", "", "", "", f"{parts['signature_us']:.0f} us"])
    for name, found in parts["engine_us"].items():
        rows.append([name, *(f"{value:.0f} us" for value in found.values())])
    print_table(["time of a request", "HSM", "disk", "decision", "total"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench/kms", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="per figure (%(default)s)")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="for the home")
    parser.add_argument("--json", action="store_true", help="one line of JSON on stdout")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="volcrypt-bench-", dir=arguments.dir))
    try:
        results = measure(directory, arguments.seconds)
        parts = measure_parts(directory, arguments.seconds)
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if arguments.json:
        print_json("kms", seconds=arguments.seconds, results=results, parts=parts)
    else:
        show(results, parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
