"""volcrypt's main job on real input: a disk that was never encrypted becomes one that is.

Makes an ext4 image of real files of this machine, imports it as an unencrypted volume, encrypts it,
mounts the encrypted volume, compares every file, writes new ones, and proves by search that nothing
that volcrypt keeps holds plaintext. Everything happens in one directory, which is removed at the
end, also after a failure or Ctrl-C. It uses volcrypt as a user does, by its command line.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from scripts.plaintext_search import PlaintextBlocks, search_paths
from scripts.sample_image import (
    FILLED,
    RealFile,
    Tree,
    copy_files,
    differences,
    make_ext4,
    read_tree,
    select_files,
)
from volcrypt.errors import VolcryptError
from volcrypt.geometry import check_volume_size, format_size, parse_size
from volcrypt.operations.home_directory import runtime_directory
from volcrypt.settings import runtime_root

VOLCRYPT: Final = Path(sys.executable).with_name("volcrypt")
NAME: Final = "quickstart"
NEW_FILES: Final = "written-after-encryption"
SMALLEST_BYTES: Final = 64 * 2**20
COPIES: Final = 5
"""Of the image, at the worst moment: itself, two volumes, and a snapshot of each."""


class JobFailedError(Exception):
    """The main job was not done; the message says what was seen."""


class Step:
    """One line of the report: what is done, then what came of it, with time and rate."""

    number = 0

    def __init__(self, title: str) -> None:
        Step.number += 1
        print(f"{Step.number:3}. {title:<46}", end="", flush=True)
        self._started = time.perf_counter()

    def done(self, result: str, *, size_bytes: int | None = None) -> None:
        seconds = time.perf_counter() - self._started
        rate = f" ({size_bytes / seconds / 1e6:,.0f} MB/s)" if size_bytes is not None else ""
        print(f"{seconds:7.2f} s  {result}{rate}", flush=True)


class Volcrypt:
    """The command line on one home."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, *arguments: str | Path) -> Any:
        """The JSON document that the command prints."""
        command = [VOLCRYPT, "--home", self.home, "--json", *arguments]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            words = " ".join(map(str, arguments))
            raise JobFailedError(f"'volcrypt {words}' ended with {done.returncode}:\n{done.stderr}")
        return json.loads(done.stdout) if done.stdout.strip() else None


def quickstart(directory: Path, size_bytes: int, source: Path) -> str:
    """Do it all; the answer is the line that says what was proved."""
    image, mounted = directory / "original.img", directory / "mounted"
    mounted.mkdir()
    volcrypt = Volcrypt(directory / "home")
    kept = [volcrypt.home, runtime_directory(volcrypt.home, runtime_root())]

    step = Step("make an ext4 image of real files")
    tree, later = make_image(image, directory / "content", size_bytes, source)
    step.done(
        f"{len(tree.digests):,} files of {source}, {format_size(tree.total_bytes)}, in an"
        f" image of {format_size(size_bytes)}"
    )

    step = Step("read its blocks")
    blocks = PlaintextBlocks()
    blocks.add_file(image)
    step.done(f"{len(blocks):,} distinct blocks that are not zero", size_bytes=size_bytes)

    step = Step("volcrypt init")
    volcrypt.run("init")
    step.done("keys in a token of its own")

    step = Step("volcrypt volume import --unencrypted")
    old = volcrypt.run("volume", "import", image, "--unencrypted", "--name", NAME)
    check(old["Encrypted"] is False, "the imported volume says that it is encrypted")
    step.done(old["VolumeId"], size_bytes=size_bytes)

    step = Step("search what volcrypt keeps, before")
    result = search_paths([path for path in kept if path.exists()], blocks)
    check(len(result.found) > 0.99 * len(blocks), "the search does not see what is unencrypted")
    step.done(
        f"finds {len(result.found) / len(blocks):.2%} of the blocks, as it must",
        size_bytes=result.searched_bytes,
    )

    step = Step("volcrypt encrypt")
    new = volcrypt.run("encrypt", NAME)
    check(new["VolumeId"] != old["VolumeId"], "the encrypted volume has the old id")
    step.done(f"{new['VolumeId']}, verified, the old volume is gone", size_bytes=size_bytes)

    step = Step("volcrypt attach, e2fsck -fn")
    check_file_system(volcrypt)
    step.done("clean")

    step = Step("volcrypt attach --mount, compare every file")
    with attached(volcrypt, mounted):
        compare(tree, mounted)
        step.done(f"{len(tree.digests):,} files are byte-identical", size_bytes=tree.total_bytes)

        step = Step("write new files through the mount")
        written = copy_files(later, source, mounted / NEW_FILES)
        run_program("sync", "--file-system", mounted)
        step.done(f"{len(written.digests):,} files", size_bytes=written.total_bytes)

    step = Step("detach, attach again, compare all")
    whole = Tree(
        digests=tree.digests
        | {f"{NEW_FILES}/{name}": digest for name, digest in written.digests.items()},
        total_bytes=tree.total_bytes + written.total_bytes,
    )
    with attached(volcrypt, mounted):
        compare(whole, mounted)
    step.done(f"{len(whole.digests):,} files are byte-identical", size_bytes=whole.total_bytes)

    step = Step("e2fsck -fn again")
    check_file_system(volcrypt)
    step.done("clean")

    step = Step("volcrypt status, snapshot list, audit list")
    step.done(check_lists(volcrypt, new["VolumeId"]))

    step = Step("search what volcrypt keeps, after")
    for file in later:
        blocks.add_file(file.path)
    result = search_paths([path for path in kept if path.exists()], blocks)
    for match in sorted(result.matches)[:10]:
        print(f"\n     plaintext in {match.path} at {match.offset}", end="")
    check(not result.found, f"{len(result.found)} blocks of plaintext are stored")
    check(result.searched_bytes > tree.total_bytes, "too little was searched to prove anything")
    step.done(
        f"none of {len(blocks):,} blocks in {result.files:,} files",
        size_bytes=result.searched_bytes,
    )

    step = Step("the control: search the original")
    original = PlaintextBlocks()
    original.add_file(image)
    control = search_paths([image], original)
    share = len(control.found) / len(original)
    check(share > 0.99, f"the control finds only {share:.2%} of the blocks")
    step.done(f"finds {share:.2%}", size_bytes=control.searched_bytes)

    return (
        f"proved: {len(whole.digests):,} files are byte-identical in the encrypted volume, and none"
        f" of {len(blocks):,} plaintext blocks lies at any 512-byte offset of the"
        f" {result.files:,} files that volcrypt keeps (control: {share:.2%} found in the original)"
    )


def make_image(
    image: Path, content: Path, size_bytes: int, source: Path
) -> tuple[Tree, list[RealFile]]:
    """The image, and the real files that are to be written into it later."""
    files = select_files(source, int(size_bytes * FILLED))
    check(len(files) >= 1000, f"{source} has too few files for a fair test")
    first, later = files[: -len(files) // 10], files[-len(files) // 10 :]
    content.mkdir()
    tree = copy_files(first, source, content)
    make_ext4(image, content, size_bytes)
    shutil.rmtree(content)
    return tree, later


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise JobFailedError(otherwise)


def run_program(*command: str | Path) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    words = " ".join(map(str, command))
    check(
        done.returncode == 0, f"'{words}' ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    )


def compare(expected: Tree, mounted: Path) -> None:
    lines = differences(expected, read_tree(mounted))
    check(not lines, "files differ:\n" + "\n".join(lines[:10]))


@contextmanager
def attached(volcrypt: Volcrypt, mounted: Path) -> Iterator[None]:
    volcrypt.run("attach", NAME, "--mount", mounted)
    check(os.path.ismount(mounted), f"nothing is mounted at {mounted}")
    yield
    volcrypt.run("detach", NAME)
    check(not os.path.ismount(mounted), f"{mounted} is still mounted")


def check_file_system(volcrypt: Volcrypt) -> None:
    device = volcrypt.run("attach", NAME)["Device"]
    run_program("e2fsck", "-fn", device)
    volcrypt.run("detach", NAME)


def check_lists(volcrypt: Volcrypt, volume_id: str) -> str:
    """What the lists say of what is left: one encrypted volume, and every use of a key."""
    volcrypt.run("status")
    volumes = volcrypt.run("volume", "list")["Volumes"]
    check([volume["VolumeId"] for volume in volumes] == [volume_id], "other volumes are left")
    check(volumes[0]["Encrypted"] is True, "the volume says that it is not encrypted")
    snapshots = volcrypt.run("snapshot", "list")["Snapshots"]
    check(all(snapshot["Encrypted"] for snapshot in snapshots), "an unencrypted snapshot is left")
    records = volcrypt.run("audit", "list")["Records"]
    uses = Counter(record["eventName"] for record in records)
    check(uses["Decrypt"] > 0, "the audit log knows of no use of a key")
    return f"{len(records)} uses of keys on record, {uses['Decrypt']} of them Decrypt"


def take_down(volcrypt: Volcrypt, directory: Path) -> None:
    """Leave nothing mounted, attached or running, wherever the work was interrupted."""
    if volcrypt.home.exists():
        with contextlib.suppress(JobFailedError):
            volcrypt.run("detach", NAME)
    runtime = runtime_directory(volcrypt.home, runtime_root())
    roots = (f"{directory}/", f"{runtime}/")
    # What detach could not do: from the top, file systems on our loop devices, these, and mounts.
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if backing.read_text().startswith(roots):
                device = f"/dev/{backing.parts[3]}"
                subprocess.run(["umount", "--all-targets", "--lazy", device], capture_output=True)
                subprocess.run(["losetup", "--detach", device], capture_output=True)
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        if (place := line.split(" ")[4]).startswith(roots):
            subprocess.run(["umount", "--lazy", place], capture_output=True)
    shutil.rmtree(runtime, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/quickstart", description=__doc__)
    parser.add_argument("--size", default="256MiB", help="of the image (%(default)s)")
    parser.add_argument(
        "--source", type=Path, default=Path("/usr"), help="where real files are (%(default)s)"
    )
    parser.add_argument("--dir", type=Path, help="an empty directory to work in")
    parser.add_argument("--keep", action="store_true", help="leave image and home there")
    arguments = parser.parse_args()
    try:
        size_bytes = check_volume_size(parse_size(arguments.size))
    except VolcryptError as error:
        parser.error(str(error))
    if size_bytes < SMALLEST_BYTES:
        parser.error(f"--size must be at least {format_size(SMALLEST_BYTES)}")
    if arguments.dir is None:
        directory = Path(tempfile.mkdtemp(prefix="volcrypt-quickstart-", dir="/var/tmp"))
    else:
        directory = arguments.dir.resolve()
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            parser.error(f"{directory} is not empty")
    if shutil.disk_usage(directory).free < COPIES * size_bytes:
        parser.error(f"{directory} needs {format_size(COPIES * size_bytes)} of free space")

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    started = time.perf_counter()
    try:
        proved = quickstart(directory, size_bytes, arguments.source)
    except (JobFailedError, OSError, RuntimeError) as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nerror: interrupted", file=sys.stderr)
        return 130
    finally:
        take_down(Volcrypt(directory / "home"), directory)
        if arguments.keep:
            print(f"kept: volcrypt --home {directory / 'home'} status")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    print(f"{proved}; {time.perf_counter() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
