"""Messages of real processes in the real journal: a systemd-journald of the test's own, in a mount
namespace with a /run of its own."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from tests.command import VOLCRYPT

PROGRAM = textwrap.dedent(
    """
    import atexit, json, os, subprocess, sys, time
    from pathlib import Path

    volcrypt, directory = sys.argv[1:]

    def wait_for(there, what):
        deadline = time.monotonic() + 60
        while not there():
            assert time.monotonic() < deadline, what
            time.sleep(0.05)

    def mount(*arguments):
        subprocess.run(["mount", *arguments], check=True)

    for place in ("/run", "/var/log"):
        mount("-t", "tmpfs", "-o", "mode=0755", "journal-test", place)
    for place in ("/run/systemd/journal", "/run/log/journal"):
        os.makedirs(place)
    if not Path("/etc/machine-id").read_text().strip():
        Path("/run/machine-id").write_text("0123456789abcdef" * 2 + "\\n")
        mount("--bind", "/run/machine-id", "/etc/machine-id")
    journald = subprocess.Popen(["JOURNALD"], stderr=subprocess.DEVNULL)
    atexit.register(journald.kill)
    wait_for(Path("/run/systemd/journal/socket").exists, "the journal")
    command = [volcrypt, "--home", directory + "/home"]

    def said(*arguments):
        return subprocess.run([*command, *arguments], check=True, capture_output=True).stdout

    def run(*arguments):
        subprocess.run([*command, *arguments], check=True, stdout=subprocess.DEVNULL)

    run("init")
    run("volume", "create", "--size", "1MiB", "--name", "orders")
    # As a service: systemd says which stream is the journal's, and it is not this one.
    os.environ["JOURNAL_STREAM"] = "1:2"
    served = subprocess.Popen([*command, "mount", "orders", directory + "/mnt", "--foreground"])
    atexit.register(served.terminate)
    wait_for(Path(directory, "mnt", "volume").exists, "the mount")
    run("snapshot", "create", "orders", "--name", "monday")
    run("snapshot", "wait", "monday")
    made = json.loads(said("kms", "create-key", "--json"))["KeyMetadata"]["Arn"]
    said("rekey", "orders", "--kms-key-id", made)
    served.terminate()
    assert served.wait(60) == 0
    kms = subprocess.Popen([*command, "kms", "serve", "--listen", "127.0.0.1:0"],
                           stdout=subprocess.PIPE)
    kms.stdout.readline()
    kms.terminate()
    assert kms.wait(60) == 0

    def entries():
        done = subprocess.run(
            ["journalctl", "--directory", "/run/log/journal", "--output", "json",
             "SYSLOG_IDENTIFIER=volcrypt-volume", "SYSLOG_IDENTIFIER=volcrypt-kms",
             "SYSLOG_IDENTIFIER=volcrypt-snapshot"],
            check=True, capture_output=True, text=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    wait_for(lambda: len(entries()) >= 6, "the messages")
    print(json.dumps([made, entries()]))
    journald.terminate()
    journald.wait(30)
    """
).replace("JOURNALD", "/usr/lib/systemd/systemd-journald")


def test_what_a_volume_and_the_kms_say(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    done = subprocess.run(
        [
            *("unshare", "--mount", "--propagation", "private"),
            *(sys.executable, "-c", PROGRAM, VOLCRYPT, tmp_path),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "VOLCRYPT_HOME": ""},
    )
    assert (done.returncode, done.stderr) == (0, "")
    new_key: str
    entries: list[dict[str, Any]]
    new_key, entries = json.loads(done.stdout)
    (volume_id,) = [path.name for path in (tmp_path / "home/volumes").glob("vol-*")]
    about = [each for each in entries if each.get("VOLCRYPT_VOLUME") == volume_id]
    volume = [each for each in about if each["SYSLOG_IDENTIFIER"] == "volcrypt-volume"]
    assert [each["MESSAGE"] for each in volume] == [
        f"orders is served at {tmp_path / 'mnt'}",
        "orders is served no more",
    ]
    for each in volume:
        assert each["VOLCRYPT_NAME"] == "orders"
        assert each["PRIORITY"] == "6"
        assert each["CODE_FILE"].endswith("volcrypt/daemons/volume_service.py")
    first, last = (each["VOLCRYPT_KEY"] for each in volume)
    assert first.startswith("arn:aws:kms:us-east-1:000000000000:key/")
    assert first != last == new_key
    made = [each for each in about if each["SYSLOG_IDENTIFIER"] == "volcrypt-snapshot"]
    assert [each["MESSAGE"].rpartition(": ")[2] for each in made] == [
        "the data is on its way",
        "completed",
    ]
    for each in made:
        assert each["VOLCRYPT_NAME"] == "monday"
        assert each["VOLCRYPT_SNAPSHOT"].startswith("snap-")
        assert each["VOLCRYPT_KEY"] == first
    kms = [each["MESSAGE"] for each in entries if each["SYSLOG_IDENTIFIER"] == "volcrypt-kms"]
    assert kms[0].startswith("the KMS is served at http://127.0.0.1:")
    assert kms[1:] == ["the KMS is served no more"]
