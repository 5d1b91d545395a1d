"""A Linux host, booted for real: a volume that comes back with it, whatever ended it before.

One host, from its first boot to its third: a boot takes seconds, and each stage needs what the one
before it left. A service writes to a file system on the volume all the time; it notes outside of
the volume what it was told is durable, and at its start what it found.
"""

import os
import sys
from pathlib import Path

from tests.e2e.booted_host import REPOSITORY, BootedHost
from volcrypt.volume.kept_mount import kernel_resends

PROGRAM = Path(sys.executable).with_name("volcrypt")
INSTALL = REPOSITORY / "scripts/install-host"
VOLUME = "volcrypt-volume@orders.service"
FSTAB = (
    "/dev/volcrypt/orders /srv/orders ext4 nofail,x-systemd.after={0},x-systemd.wanted-by={0} 0 0\n"
)
CAPABILITIES = 1 << 21 | 1 << 14  # CAP_SYS_ADMIN, CAP_IPC_LOCK
PIN = "471108150"
SEALED_PIN = "/etc/credstore.encrypted/volcrypt.pin"
KMS = ("volcrypt-kms.socket", "volcrypt-kms.service")
CONFIGURATION = '[profiles.hosts]\nprincipal = "hosts"\n'
POLICY = """{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Resource": "*",
"Action": ["kms:GenerateDataKey*", "kms:Decrypt", "kms:CreateGrant", "kms:DescribeKey"]}]}"""
AS_HOSTS = """[Service]
ExecStart=
ExecStart=/usr/local/bin/volcrypt --profile hosts attach %i --foreground
"""
WRITER = """#!/bin/sh
mountpoint -q /srv/orders && ls /srv/orders >/var/lib/ls || exit 1
found=$(cat /srv/orders/last || echo 0)
echo "$found $(cat /var/lib/durable || echo 0)" >>/var/lib/found
n=$found
while n=$((n + 1)); do
    echo $n >/srv/orders/new && sync /srv/orders/new && mv /srv/orders/new /srv/orders/last &&
        sync /srv/orders && echo $n >/var/lib/new && mv /var/lib/new /var/lib/durable || exit 1
done
"""
WRITER_UNIT = """[Unit]
RequiresMountsFor=/srv/orders
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/local/bin/writer
Restart=on-failure
RestartSec=200ms
[Install]
WantedBy=multi-user.target srv-orders.mount
"""


def test_a_volume_comes_back(tmp_path: Path) -> None:
    with BootedHost(tmp_path / "host") as host:
        host.boot()
        install(host)
        the_keys_are_their_own_users(host)
        attach_at_every_boot(host)
        the_process_that_serves_may_do_little(host)
        the_timers_find_nothing(host)
        the_figures_are_served(host)
        udev_is_told_the_name(host)
        stop_under_load(host)
        what_is_not_kept_is_mounted_again(host)
        if kernel_resends(os.uname().release):
            a_killed_process_is_replaced(host)
        what_was_stopped_in_use_starts_again(host)
        before = len(starts(host))
        host.power_off()  # under load
        host.boot()
        comes_back(host, before)
        before = len(starts(host))
        host.run("systemctl", "disable", *KMS)
        host.cut_power()
        host.boot()
        what_waits_for_the_kms_comes_with_it(host, before)
        uninstalling_waits_for_volumes(host)
        a_wrong_pin_is_tried_once(host)
        a_refusal_is_not_asked_for_again(host)
        a_crash_loop_ends_with_the_reason(host)
        host.run(INSTALL, "--uninstall")
        assert host.run("sh", "-c", "command -v volcrypt", check=False).returncode
        host.run("test", "-e", "/var/lib/volcrypt/home")


def put(host: BootedHost, path: str, text: str) -> None:
    host.run("mkdir", "-p", Path(path).parent)
    host.run("tee", path, given=text)


def install(host: BootedHost) -> None:
    """As the README says, with the PIN in a credential and the keys with a user of their own."""
    host.run(INSTALL, "--program", PROGRAM)
    put(host, "/run/pin", PIN)
    host.run("volcrypt", "init", "--pin-file", "/run/pin")
    seal_pin(host, PIN)
    put(host, "/var/lib/volcrypt/config.toml", CONFIGURATION)
    host.run("systemctl", "enable", "--now", *KMS)
    host.run("volcrypt", "principal", "create", "hosts")
    host.run("volcrypt", "principal", "put-policy", "hosts", "-", given=POLICY)
    host.run("volcrypt", "volume", "create", "--size", "64MiB", "--name", "orders")


def seal_pin(host: BootedHost, pin: str) -> None:
    put(host, "/run/pin", pin)
    host.run("mkdir", "-p", Path(SEALED_PIN).parent)
    host.run("systemd-creds", "encrypt", "--name=volcrypt.pin", "/run/pin", SEALED_PIN)
    host.run("rm", "/run/pin")


def the_keys_are_their_own_users(host: BootedHost) -> None:
    daemon = host.show("volcrypt-kms", "MainPID")
    owners = host.run("stat", "-c", "%U", f"/proc/{daemon}", "/var/lib/volcrypt/kms").stdout.split()
    assert owners == ["volcrypt-kms", "volcrypt-kms"]
    assert PIN not in host.run("cat", f"/proc/{daemon}/environ", f"/proc/{daemon}/cmdline").stdout
    # With the daemon and its socket away nobody has the PIN, not even root's commands.
    host.run("systemctl", "stop", *KMS)
    done = host.run("volcrypt", "kms", "list-keys", check=False)
    assert (done.returncode, "does not answer" in done.stderr) == (7, True), done.stderr
    host.run("systemctl", "start", KMS[0])
    host.run("volcrypt", "kms", "list-keys")  # whoever connects has the daemon started
    other = (
        "setpriv",
        "--reuid=nobody",
        "--clear-groups",
        "volcrypt",
        "--home",
        "/var/lib/volcrypt",
    )
    assert host.run(*other, "kms", "list-keys", check=False).returncode != 0


def attach_at_every_boot(host: BootedHost) -> None:
    put(host, "/etc/systemd/system/volcrypt-volume@.service.d/hosts.conf", AS_HOSTS)
    put(host, "/usr/local/bin/writer", WRITER)
    host.run("chmod", "755", "/usr/local/bin/writer")
    put(host, "/etc/systemd/system/writer.service", WRITER_UNIT)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "enable", "--now", VOLUME)
    assert host.show(VOLUME, "StatusText").startswith("orders is attached as /dev/volcrypt/orders")
    assert '"arn":"arn:aws:iam::000000000000:user/hosts"' in host.run(
        "sh", "-c", "cat /var/lib/volcrypt/kms/audit/*.jsonl"
    ).stdout.replace(" ", "")
    host.run("mkfs.ext4", "-q", "/dev/volcrypt/orders")
    host.run("mkdir", "-p", "/srv/orders")
    put(host, "/etc/fstab", FSTAB.format(VOLUME))
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "enable", "--now", "writer")
    wait_for_writes(host)


def number(host: BootedHost, path: str) -> int:
    return int(host.run("cat", path, check=False).stdout or 0)


def wait_for_writes(host: BootedHost) -> None:
    """The file system is there, and takes writes."""
    before = number(host, "/var/lib/durable")
    host.wait(lambda: number(host, "/var/lib/durable") > before + 10, "there are more writes")
    source = host.run("findmnt", "--noheadings", "--output", "SOURCE", "/srv/orders").stdout
    assert source.startswith("/dev/loop")


def starts(host: BootedHost) -> list[tuple[int, int]]:
    """Of each start of the writer: what it found, and what it had been told is durable."""
    lines = host.run("cat", "/var/lib/found").stdout.splitlines()
    return [(int(there), int(durable)) for there, durable in map(str.split, lines)]


def nothing_was_lost(host: BootedHost, before: int) -> None:
    """Since there were so many starts of the writer."""
    wait_for_writes(host)
    found = starts(host)
    assert len(found) > before
    assert all(there >= durable > 0 for there, durable in found[1:]), found


def the_process_that_serves_may_do_little(host: BootedHost) -> None:
    pid = host.show(VOLUME, "MainPID")
    lines = host.run("cat", f"/proc/{pid}/status").stdout.splitlines()
    status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == CAPABILITIES
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert int(status["VmLck"].split()[0]) > 0
    arguments = host.run("cat", f"/proc/{pid}/environ", f"/proc/{pid}/cmdline").stdout
    assert PIN not in arguments
    # What it mounted is the host's to see.
    assert host.run("findmnt", "--noheadings", "--types", "fuse.volcrypt").stdout


def the_timers_find_nothing(host: BootedHost) -> None:
    """With a volume in use; fails where a service does."""
    host.run("systemctl", "start", "volcrypt-due.service")
    host.run("systemctl", "start", "volcrypt-scrub.service")
    for timer in ("volcrypt-due.timer", "volcrypt-scrub.timer"):
        assert host.show(timer, "ActiveState") == "active"


def the_figures_are_served(host: BootedHost) -> None:
    """Also by a process that may do nothing, of a home whose keys are another user's."""
    host.run("systemctl", "start", "volcrypt-metrics.service")
    read = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9611/metrics').read())"
    page = host.run("python3", "-c", read).stdout
    for figure in ("volcrypt_volumes_silent 0.0", "volcrypt_volume_kept{", 'name="orders"'):
        assert figure in page
    pid = host.show("volcrypt-metrics", "MainPID")
    assert "CapEff:\t0000000000000000\n" in host.run("cat", f"/proc/{pid}/status").stdout
    host.run("systemctl", "stop", "volcrypt-metrics.service")
    assert host.show("volcrypt-metrics", "Result") == "success"


def udev_is_told_the_name(host: BootedHost) -> None:
    """By the rule as udev reads it; no udevd runs here, which would open loop devices of others."""
    loop = Path(host.run("readlink", "/dev/volcrypt/orders").stdout.strip()).name
    told = {}
    for action in ("remove", "add", "change"):  # what is added it remembers
        run = ("udevadm", "test", f"--action={action}", f"/sys/block/{loop}")
        told[action] = host.run(*run).stdout.splitlines()
    alias = "SYSTEMD_ALIAS=/dev/volcrypt/orders"
    assert [action for action in told if alias in told[action]] == ["add", "change"]
    assert any(line.startswith("TAGS=") and ":systemd:" in line for line in told["add"])


def stop_under_load(host: BootedHost) -> None:
    host.run("systemctl", "stop", VOLUME)
    for unit in ("writer.service", "srv-orders.mount", VOLUME):
        assert host.show(unit, "ActiveState") == "inactive", unit
    assert (host.show(VOLUME, "Result"), host.show(VOLUME, "ExecMainStatus")) == ("success", "0")
    assert not host.run("findmnt", "--types", "fuse.volcrypt", check=False).stdout
    assert host.run("test", "-e", "/dev/volcrypt/orders", check=False).returncode == 1


def what_is_not_kept_is_mounted_again(host: BootedHost) -> None:
    """As where the kernel is too old: the writer, which gets an error, goes on after a kill."""
    no_store = "/etc/systemd/system/volcrypt-volume@.service.d/no-store.conf"
    before = len(starts(host))
    put(host, no_store, "[Service]\nFileDescriptorStoreMax=0\n")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", VOLUME)  # brings its file system
    host.run("systemctl", "start", "writer")
    nothing_was_lost(host, before)
    host.run("rm", no_store)
    host.run("systemctl", "daemon-reload")
    before = len(starts(host))
    host.run("kill", "-KILL", host.show(VOLUME, "MainPID"))
    host.wait(lambda: len(starts(host)) > before, "the writer has started again")
    nothing_was_lost(host, before)


def a_killed_process_is_replaced(host: BootedHost) -> None:
    """Without a manual step, and file system and writer on it notice nothing; nor of an upgrade."""
    before = len(starts(host))
    mount = host.run("grep", "/srv/orders", "/proc/1/mountinfo").stdout
    writer = host.show("writer", "MainPID")
    for command in (
        ("kill", "-KILL", "{}"),
        ("systemctl", "restart", VOLUME),
        ("kill", "-KILL", "{}"),
    ):
        pid = kept_process(host)
        host.run(*(part.format(pid) for part in command))
        kept_process(host, other_than=pid)
        wait_for_writes(host)
    assert host.run("grep", "/srv/orders", "/proc/1/mountinfo").stdout == mount
    assert host.show("writer", "MainPID") == writer
    assert len(starts(host)) == before


def what_was_stopped_in_use_starts_again(host: BootedHost) -> None:
    """A stop takes the volume from who still uses the file system, which stays mounted and dead;
    the next start has systemd mount it anew."""
    before = len(starts(host))
    in_use = "cd /srv/orders; sleep 600 <>/dev/null >&0 2>&0 & echo $! >/run/sleeper"
    host.run("sh", "-c", in_use)
    host.run("systemctl", "stop", VOLUME, check=False)
    assert host.run("mountpoint", "/srv/orders", check=False).returncode == 0, "the control"
    host.run("sh", "-c", "kill -KILL $(cat /run/sleeper)")
    host.run("systemctl", "start", VOLUME)
    host.run("systemctl", "start", "writer")
    nothing_was_lost(host, before)


def kept_process(host: BootedHost, *, other_than: str = "0") -> str:
    """Who serves, when systemd keeps the mount, which takes a moment after the first start."""
    kept = ["5", "active", "running"]
    names = ("NFileDescriptorStore", "ActiveState", "SubState")
    host.wait(lambda: host.show(VOLUME, "MainPID") not in (other_than, "0"), "it has a process")
    host.wait(lambda: [host.show(VOLUME, name) for name in names] == kept, "the mount is kept")
    return host.show(VOLUME, "MainPID")


def comes_back(host: BootedHost, before: int) -> None:
    host.wait(lambda: len(starts(host)) > before, "the writer has started")
    nothing_was_lost(host, before)


def uninstalling_waits_for_volumes(host: BootedHost) -> None:
    done = host.run(INSTALL, "--uninstall", check=False)
    assert (done.returncode, f"attached: {VOLUME}" in done.stderr) == (4, True), done.stderr


def waits_for_the_kms(host: BootedHost) -> None:
    """It is started again and again, and says why."""
    host.wait(lambda: int(host.show(VOLUME, "NRestarts")) >= 1, "it is tried again")
    no_answer = "error: the KMS of the home does not answer on /run/volcrypt-kms/"
    host.wait(lambda: host.show(VOLUME, "StatusText").startswith(no_answer), "it says why")
    assert host.show(VOLUME, "ActiveState") == "activating"


def what_waits_for_the_kms_comes_with_it(host: BootedHost, before: int) -> None:
    """The host has booted all the same; all that was not there then comes by itself."""
    waits_for_the_kms(host)
    assert host.run("mountpoint", "/srv/orders", check=False).returncode
    host.run("systemctl", "enable", "--now", *KMS)
    comes_back(host, before)


def a_wrong_pin_is_tried_once(host: BootedHost) -> None:
    """However often somebody asks for the KMS: a token locks itself after a few."""
    before = len(starts(host))
    host.run("systemctl", "stop", VOLUME, KMS[1])
    seal_pin(host, PIN[::-1])
    host.run("systemctl", "start", VOLUME, check=False)
    waits_for_the_kms(host)
    assert host.run("volcrypt", "kms", "list-keys", check=False).returncode == 7
    journal = host.run("journalctl", "--unit", KMS[1], "--output", "cat").stdout
    assert journal.count("error: the PIN does not open the token") == 1, journal
    assert [host.show(unit, "ActiveState") for unit in KMS] == ["inactive", "failed"]
    assert "the PIN does not open the token; hint: " in host.show(KMS[1], "StatusText")
    seal_pin(host, PIN)
    host.run("systemctl", "start", KMS[1])
    assert host.show(KMS[0], "ActiveState") == "active"
    comes_back(host, before)


def a_refusal_is_not_asked_for_again(host: BootedHost) -> None:
    host.run("systemctl", "stop", VOLUME)
    policy = ("volcrypt", "principal", "put-policy", "hosts", "-")
    host.run(*policy, given=POLICY.replace("Allow", "Deny"))
    host.run("systemctl", "start", VOLUME, check=False)
    host.wait(lambda: host.show(VOLUME, "ActiveState") == "failed", "it is given up")
    assert host.show(VOLUME, "NRestarts") == "0"
    status = host.show(VOLUME, "StatusText")
    assert status.startswith("error: the ciphertext refers to a customer master key that"), status
    assert "get-key-policy" in status
    host.run(*policy, given=POLICY)


def a_crash_loop_ends_with_the_reason(host: BootedHost) -> None:
    two = "[Unit]\nStartLimitBurst=2\n"
    put(host, "/etc/systemd/system/volcrypt-volume@.service.d/two.conf", two)
    host.run("systemctl", "daemon-reload")
    put(host, "/var/lib/volcrypt/config.toml", "[kms\n")
    host.run("systemctl", "reset-failed", VOLUME)
    host.run("systemctl", "start", VOLUME, check=False)
    host.wait(lambda: host.show(VOLUME, "ActiveState") == "failed", "it is given up")
    status = host.show(VOLUME, "StatusText")
    assert status.startswith("error: /var/lib/volcrypt/config.toml: "), status
    assert int(host.show(VOLUME, "NRestarts")) >= 1
    put(host, "/var/lib/volcrypt/config.toml", CONFIGURATION)
    # What no try would mend is not tried again.
    host.run("systemctl", "start", "volcrypt-volume@nothing", check=False)
    host.wait(lambda: host.show("volcrypt-volume@nothing", "ActiveState") == "failed", "it failed")
    assert host.show("volcrypt-volume@nothing", "NRestarts") == "0"
    assert host.show("volcrypt-volume@nothing", "StatusText") == (
        "error: volume nothing does not exist; hint: volcrypt volume list"
    )
