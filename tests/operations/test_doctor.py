"""Each check of `doctor` on a host that lacks something, and on one that does not (the control)."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.pkcs11_module import make_module
from tests.nss import make_nss_cluster
from volcrypt.errors import ConfigurationError
from volcrypt.kms.remote_store import Cluster
from volcrypt.operations import doctor_clock, doctor_home, doctor_host, doctor_keys, doctor_memory
from volcrypt.operations.audit import last_record_time
from volcrypt.operations.doctor_host import Host
from volcrypt.operations.findings import Finding, State, examine, note, ok
from volcrypt.operations.home import Home
from volcrypt.volume.mountpoint import mounts


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """One on which all is well, with its /dev, /proc and /sys below a directory."""
    for name in ("dev", "proc/self", "proc/sys/kernel", "sys/class/block", "sys/dev/block"):
        (tmp_path / "host" / name).mkdir(parents=True)
    root = tmp_path / "host"
    for device in ("fuse", "loop-control"):
        number = os.stat(f"/dev/{device}").st_rdev
        os.mknod(root / "dev" / device, 0o600 | 0o020000, number)
    (root / "proc/filesystems").write_text("nodev\tfuse\n\text4\n")
    (root / "proc/swaps").write_text("Filename Type Size Used Priority\n")
    (root / "proc/sys/kernel/core_pattern").write_text("core\n")
    return Host(root=root, is_root=True, release="6.12.1", may_mount=True, find_program=lambda p: p)


def worst(findings: object) -> Finding:
    """The gravest finding, the first of them."""
    listed = list(findings)  # type: ignore[call-overload]
    order = [State.OK, State.NOTE, State.PROBLEM]
    found: Finding = max(listed, key=lambda each: order.index(each.state))
    if found.state is State.PROBLEM and "frozen" not in found.text:
        assert found.mend, f"nothing is said of how to mend: {found}"
    return found


def test_one_check_that_fails_ends_no_other() -> None:
    def fails() -> list[Finding]:
        raise ConfigurationError("it broke", hint="mend it")

    found = list(examine([("a", fails), ("b", lambda: [ok("b", "fine")])]))
    assert [(each.check, each.state) for each in found] == [("a", State.PROBLEM), ("b", State.OK)]
    assert (found[0].text, found[0].mend) == ("it broke", "mend it")


@pytest.mark.parametrize(
    ("release", "state"),
    [
        ("4.19.0-25-amd64", State.PROBLEM),
        ("5.4.0", State.NOTE),
        ("5.10.0", State.NOTE),
        ("6.2.0", State.NOTE),
        ("6.9.0", State.OK),
        ("6.18.44-fc", State.OK),
        ("odd", State.NOTE),
    ],
)
def test_an_old_kernel_lacks_what_is_said(host: Host, release: str, state: State) -> None:
    assert worst(doctor_host.check_kernel(replace(host, release=release))).state is state


def test_fuse(host: Host) -> None:
    assert worst(doctor_host.check_fuse(host)).state is State.OK
    device = host.path("/dev/fuse")
    device.unlink()
    assert "mknod" in str(worst(doctor_host.check_fuse(host)).mend)
    host.path("/proc/filesystems").write_text("\text4\n")
    assert worst(doctor_host.check_fuse(host)).mend == "modprobe fuse"
    device.write_text("")
    assert "not a device" in worst(doctor_host.check_fuse(host)).text
    device.unlink()
    os.mknod(device, 0o600 | 0o020000, os.makedev(10, 1))  # a number that nobody answers
    assert worst(doctor_host.check_fuse(host)).state is State.PROBLEM


def test_fuse_for_users(host: Host, tmp_path: Path) -> None:
    helper = tmp_path / "fusermount3"
    helper.write_text("")
    user = replace(host, is_root=False, find_program=lambda _: str(helper))
    helper.chmod(0o4755)
    assert worst(doctor_host.check_fuse(user)).state is State.OK
    helper.chmod(0o755)
    assert "chmod 4755" in str(worst(doctor_host.check_fuse(user)).mend)
    missing = worst(doctor_host.check_fuse(replace(user, find_program=lambda _: None)))
    assert missing.mend == "apt-get install fuse3"
    assert worst(doctor_host.check_fuse(replace(host, may_mount=False))).state is State.PROBLEM


def test_loop_devices(host: Host) -> None:
    assert worst(doctor_host.check_loop(host)).state is State.OK
    assert worst(doctor_host.check_loop(replace(host, is_root=False))).state is State.NOTE
    host.path("/dev/loop-control").unlink()
    assert worst(doctor_host.check_loop(host)).mend == "modprobe loop"


def test_programs_are_looked_for_in_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worst(doctor_host.check_programs(Host())).state is State.OK
    monkeypatch.setenv("PATH", str(tmp_path))
    found = list(doctor_host.check_programs(Host(is_root=True)))
    assert {each.mend for each in found} >= {"apt-get install cryptsetup-bin"}
    assert [each.text for each in found if each.state is State.PROBLEM] == [
        "losetup is missing, for 'attach'"
    ]
    assert all(each.state is State.NOTE for each in doctor_host.check_programs(Host(is_root=False)))


def test_limits_of_the_cgroup_and_of_files(host: Host) -> None:
    assert worst(doctor_host.check_limits(host, open_files=4096)).state is State.OK
    assert worst(doctor_host.check_limits(host, open_files=256)).state is State.PROBLEM
    host.path("/proc/self/cgroup").write_text("0::/slow.slice\n")
    group = host.path("/sys/fs/cgroup/slow.slice")
    group.mkdir(parents=True)
    (group / "io.max").write_text("8:0 rbps=1000 wbps=max\n")
    assert "rbps=1000" in worst(doctor_host.check_limits(host, open_files=4096)).text


@pytest.mark.parametrize(
    ("is_root", "limit_bytes", "may_lock", "state"),
    [
        (True, 8192, True, State.OK),
        (True, doctor_memory.UNLIMITED, False, State.PROBLEM),
        (False, doctor_memory.UNLIMITED, False, State.OK),
        (False, 8 << 20, False, State.PROBLEM),
    ],
)
def test_memory_is_locked_or_not(
    host: Host, is_root: bool, limit_bytes: int, may_lock: bool, state: State
) -> None:
    user = replace(host, is_root=is_root)
    found = doctor_memory.check_memory_lock(user, limit_bytes=limit_bytes, may_lock=may_lock)
    assert worst(found).state is state


def swap_on(host: Host, device: str, kind: str = "partition") -> None:
    host.path("/proc/swaps").write_text(f"Filename Type Size\n{device} {kind} 1024\n")


def test_swap(host: Host) -> None:
    assert worst(doctor_memory.check_swap(host, locks_memory=True)).text == "there is none"
    swap_on(host, "/dev/sda2")
    assert worst(doctor_memory.check_swap(host, locks_memory=True)).state is State.NOTE
    open_swap = worst(doctor_memory.check_swap(host, locks_memory=False))
    assert open_swap.state is State.PROBLEM
    assert "swapoff /dev/sda2" in str(open_swap.mend)


def test_swap_that_is_safe(host: Host) -> None:
    blocks = host.path("/sys/class/block")
    swap_on(host, "/dev/zram0")
    assert worst(doctor_memory.check_swap(host, locks_memory=False)).state is State.OK
    (blocks / "zram0").mkdir()
    (blocks / "zram0/backing_dev").write_text("/dev/sda3\n")
    assert worst(doctor_memory.check_swap(host, locks_memory=False)).state is State.PROBLEM

    (blocks / "dm-1/dm").mkdir(parents=True)  # a logical volume on an encrypted partition
    (blocks / "dm-1/dm/uuid").write_text("LVM-1234\n")
    swap_on(host, "/dev/dm-1")
    assert worst(doctor_memory.check_swap(host, locks_memory=False)).state is State.PROBLEM
    (blocks / "dm-1/slaves/dm-0").mkdir(parents=True)
    (blocks / "dm-0/dm").mkdir(parents=True)
    (blocks / "dm-0/dm/uuid").write_text("CRYPT-LUKS2-1234\n")
    assert worst(doctor_memory.check_swap(host, locks_memory=False)).state is State.OK


def test_a_swap_file_is_as_safe_as_its_disk(host: Host) -> None:
    swap_on(host, "/swapfile", "file")
    assert worst(doctor_memory.check_swap(host, locks_memory=False)).state is State.PROBLEM
    file = host.path("/swapfile")
    file.write_text("")
    number = file.stat().st_dev
    disk = host.path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/dm")
    disk.mkdir(parents=True)
    (disk / "uuid").write_text("CRYPT-PLAIN-x\n")
    assert worst(doctor_memory.check_swap(host, locks_memory=False)).state is State.OK


def test_core_dumps(host: Host) -> None:
    assert worst(doctor_memory.check_core_dumps(host, limit_bytes=0)).state is State.OK
    assert worst(doctor_memory.check_core_dumps(host, limit_bytes=-1)).state is State.NOTE
    host.path("/proc/sys/kernel/core_pattern").write_text("|/usr/lib/apport %p\n")
    assert "/usr/lib/apport" in worst(doctor_memory.check_core_dumps(host, limit_bytes=0)).text


@pytest.mark.parametrize(
    ("now", "uptime", "last_record", "synchronised", "state"),
    [
        (1.8e9, 1000.0, None, True, State.OK),
        (1.8e9, 1000.0, 1.8e9 - 60, None, State.OK),
        (1.8e9, 1000.0, 1.8e9 + 1, True, State.OK),
        (1.8e9, 1000.0, None, False, State.NOTE),
        (1.8e9, 1000.0, 1.8e9 + 60, True, State.PROBLEM),
        (1.8e9, 1.9e9, None, True, State.PROBLEM),
        (0.0, 10.0, None, True, State.PROBLEM),
        (9e9, 10.0, None, True, State.PROBLEM),
        (1e18, 10.0, None, True, State.PROBLEM),
    ],
)
def test_the_clock(
    now: float,
    uptime: float,
    last_record: float | None,
    synchronised: bool | None,
    state: State,
) -> None:
    found = doctor_clock.check_clock(
        now=now, uptime=uptime, is_synchronised=synchronised, last_record=last_record
    )
    assert worst(found).state is state


def test_the_kernel_says_whether_its_clock_is_kept() -> None:
    assert doctor_clock.clock_is_synchronised() in (True, False, None)


def test_the_last_audit_record_has_a_time(home: Home) -> None:
    assert last_record_time(home.path / "elsewhere") is None
    list(doctor_keys.check_kms(home))
    found = last_record_time(home.path)
    assert found is not None
    log = next((home.path / "kms/audit").glob("audit-*.jsonl"))
    assert abs(found - log.stat().st_mtime) < 60
    log.write_bytes(log.read_bytes() + b'{"unfinished')
    assert last_record_time(home.path) == found


def test_directories_of_a_home(home: Home) -> None:
    config = home.path / "config.toml"
    assert worst(doctor_home.check_directories(home.path, config_file=config)).state is State.OK
    config.write_text("")
    config.chmod(0o666)
    assert "config.toml" in worst(doctor_home.check_directories(home.path, config_file=config)).text
    config.unlink()
    (home.path / "kms").chmod(0o750)
    open_one = worst(doctor_home.check_directories(home.path, config_file=config))
    assert open_one.mend == f"chmod go-rwx {home.path / 'kms'}"
    (home.path / "kms").chmod(0o700)
    (home.path / "stores").rename(home.path / "gone")
    assert "missing" in worst(doctor_home.check_directories(home.path, config_file=config)).text
    (home.path / "gone").rename(home.path / "stores")
    os.chown(home.path / "volumes", 65534, 65534)
    assert "65534" in worst(doctor_home.check_directories(home.path, config_file=config)).text
    os.chown(home.path / "volumes", 0, 0)


def test_the_runtime_directory_is_on_tmpfs(host: Host, tmp_path: Path) -> None:
    assert worst(doctor_home.check_runtime(Host(), Path("/dev/shm/volcrypt"))).state is State.OK
    host.path("/proc/self/mounts").write_text(f"d / ext4 rw 0 0\nt {tmp_path} tmpfs rw 0 0\n")
    assert worst(doctor_home.check_runtime(host, tmp_path / "run")).state is State.OK
    host.path("/proc/self/mounts").write_text(f"d / ext4 rw 0 0\nt {tmp_path}x tmpfs rw 0 0\n")
    assert "ext4" in worst(doctor_home.check_runtime(host, tmp_path / "run")).text


def test_the_homes_token(home: Home) -> None:
    master = home.path / "kms/token"
    found = list(doctor_home.check_home_token(master, home.runtime))
    assert [each.state for each in found] == [State.OK, State.NOTE]
    assert "has the token" in found[0].text
    # Never a claim.
    assert "no FIPS" in found[1].text
    without = list(doctor_home.check_home_token(None, home.runtime))
    assert "has the token" not in without[0].text
    assert list(home.runtime.glob("token-*")) == []


def test_a_damaged_token(home: Home) -> None:
    master = home.path / "kms/token/master"
    data = bytearray(master.read_bytes())
    data[len(data) // 2] ^= 1
    master.write_bytes(data)
    found = list(
        examine([("hsm", lambda: doctor_home.check_home_token(master.parent, home.runtime))])
    )
    assert [each.state for each in found] == [State.PROBLEM]
    assert "token" in found[0].text


def test_modules_of_custom_key_stores(tmp_path: Path) -> None:
    good = make_nss_cluster(tmp_path / "nss")
    name = "cluster-secondtoken"

    def look(cluster: Cluster, validated: str | None = None) -> Finding:
        said = {} if validated is None else {name: validated}
        return worst(doctor_home.check_clusters({name: cluster}, said))

    found = look(good)
    assert found.state is State.OK
    assert "nobody says that it is validated" in found.text
    assert "config.toml says of it: FIPS 140-3" in look(good, "FIPS 140-3").text
    assert "token_label" in str(look(replace(good, token_label="another")).mend)
    missing = replace(good, module=tmp_path / "none.so")
    assert "missing" in look(missing).text
    junk = tmp_path / "junk.so"
    junk.write_text("no module")
    assert "does not load" in look(replace(good, module=junk)).text
    assert "crashed" in look(replace(good, module=make_module(tmp_path, "abort();"))).text


def test_where_the_pin_is(home: Home) -> None:
    def look(configured: bool) -> Finding:
        return worst(
            doctor_home.check_pin(
                home.path, is_configured=configured, find_creds="systemd-creds", has_tpm=True
            )
        )

    assert "beside the token" in look(configured=False).text
    (home.path / "kms/pin").rename(home.path / "kms/away")
    assert "terminal" in look(configured=False).text
    assert "systemd-creds" in str(look(configured=False).mend)
    assert look(configured=True).state is State.OK
    (home.path / "kms/away").rename(home.path / "kms/pin")


def test_a_disk_that_is_nearly_full(tmp_path: Path) -> None:
    point = tmp_path / "small"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", point], check=True)
    try:
        assert worst(doctor_home.check_space(point)).state is State.OK
        (point / "file").write_bytes(bytes(1000 * 1024))
        assert worst(doctor_home.check_space(point)).state is State.PROBLEM
    finally:
        subprocess.run(["umount", point], check=True)


def test_links_to_what_is_no_volume(tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    (links / "orders").symlink_to("/dev/null")
    found = worst(doctor_home.check_leftovers(None, None, [], links=links))
    assert f"{links / 'orders'} leads to no volume" in found.text
    (links / "orders").unlink()
    assert worst(doctor_home.check_leftovers(None, None, [], links=links)).state is State.OK


def test_other_mounts_are_nobodys_business() -> None:
    others = [each for each in mounts() if "volcrypt" not in each.fs_type]
    assert others
    found = worst(doctor_home.check_leftovers(None, None, others, links=Path("/none")))
    assert found == ok("leftovers", "nothing is left of killed processes")


def test_a_note_needs_no_mending() -> None:
    assert note("a", "b").mend is None
