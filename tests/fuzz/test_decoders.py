"""Whatever a decoder is shown, it takes or refuses it by name; and each decoder is in the table."""

import ast
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import volcrypt
from tests.fuzz.decoders import Decoder
from tests.fuzz.harness import DECODERS, changed, check, run, seconds_of_chance
from volcrypt.errors import MalformedError

PACKAGE: Final = Path(volcrypt.__file__).parent
READS: Final = (
    "json.loads",
    "msgspec.convert",
    "msgspec.json.decode",
    "msgspec.msgpack.decode",
    "tomllib.loads",
    "b64decode",
    "binascii.unhexlify",
    "bytes.fromhex",
)
"""Calls by which a function reads what somebody else wrote."""

SEALED_ROWS: Final = "a row of the catalogue, which is sealed as a whole"
OUR_CHILD: Final = "what a process says that this one started"
KERNEL: Final = "a structure of the kernel"
ELSEWHERE: Final = {
    "cli.background.begin_copy": OUR_CHILD,
    "cli.background.begin_snapshots": OUR_CHILD,
    "cli.kms_options.KmsCommand.parse_args": "click's arguments",
    "confinement._own_capabilities": KERNEL,
    "formats.certificate.decode_signed": "through each of the signed documents",
    "formats.ciphertext_blob.encode_ciphertext_blob": "encodes",
    "formats.document.decode_document": "through each of the sealed documents",
    "formats.document.split_document": "through each of the sealed documents",
    "formats.import_token.ImportToken.covered": "encodes",
    "formats.toml_lines._statements": "through the configuration",
    "kms.custom_key_store.decode_key_store": SEALED_ROWS,
    "kms.grant_items.decode_grant": SEALED_ROWS,
    "kms.grants.encode_token": "encodes",
    "kms.home._check_meta": SEALED_ROWS,
    "kms.import_operations._decode": SEALED_ROWS,
    "kms.key_store_process._receive": OUR_CHILD,
    "kms.keyring.decode_alias": SEALED_ROWS,
    "kms.keyring.decode_key": SEALED_ROWS,
    "kms.module_probe.probe_module": OUR_CHILD,
    "kms.principal_operations.PrincipalOperations.get_user_policy": SEALED_ROWS,
    "kms.principals.decode_access_key": SEALED_ROWS,
    "kms.principals.decode_principal": SEALED_ROWS,
    "kms.register._entry": SEALED_ROWS,
    "kms.remote_store.RemoteStore._converse": OUR_CHILD,
    "kms.rewrap._members": SEALED_ROWS,
    "kms.rewrap._secret": SEALED_ROWS,
    "kms.rewrap._step": SEALED_ROWS,
    "kms.rows.Rows.seal": SEALED_ROWS,
    "kms.sealing.Item.decoded": SEALED_ROWS,
    "operations.background.in_background": OUR_CHILD,
    "operations.freeze_notes._notes": "operations/test_freeze.py: notes that are none",
    "operations.job_progress.read_progress": "operations/test_jobs.py: what is no progress",
    "operations.mount_grants._noted": "e2e/test_damage.py, the grant note",
    "volume.block_device.open_alone": KERNEL,
    "volume.control_socket.check_peer": KERNEL,
    "volume.kept_mount.KeptMount.introduction": "through the kept mount",
    "volume.kept_mount.KeptMount.max_write": "through the kept mount",
    "volume.kept_mount.KeptMount.resends": "through the kept mount",
    "volume.launch.spawn_daemon": OUR_CHILD,
    "volume.live_map.LiveMap.read_parent": "behind its digest",
    "volume.loop.probe_sector_size": KERNEL,
    "wire.home_client.HomeChannel.call": "what a reply carries, of our own daemon",
    "wire.home_socket.peer_user": KERNEL,
}
"""Functions that read, and are in no entry's `covers`, with the reason."""


@pytest.mark.parametrize("name", DECODERS)
def test_the_seeds_are_taken(name: str) -> None:
    """The control: what is changed is right to begin with, sealed anew as well."""
    decoder = DECODERS[name]
    for seed in decoder.seeds:
        decoder.decode(seed)
        if decoder.reseal is not None:
            decoder.decode(decoder.reseal(seed))


@pytest.mark.parametrize("name", DECODERS)
def test_anything_is_taken_or_refused_by_name(name: str) -> None:
    """The same each time; the soak tries others."""
    run(DECODERS[name], (random.Random(number) for number in range(40)))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(DECODERS)), st.randoms(use_true_random=False))
def test_more_of_anything(name: str, chance: random.Random) -> None:
    data, is_forged = changed(DECODERS[name], chance)
    check(DECODERS[name], data, is_forged=is_forged)


@pytest.mark.soak
@pytest.mark.parametrize("name", DECODERS)
def test_anything_for_long(name: str) -> None:
    seconds = float(os.environ.get("VOLCRYPT_FUZZ_SECONDS", "20"))
    tally = run(DECODERS[name], seconds_of_chance(seconds, random.randrange(10**9)))
    assert tally.shown > 0


def test_control_what_comes_of_bytes_is_seen() -> None:
    """A decoder that lets another error out, or takes what nobody sealed."""

    def careless(data: bytes) -> object:
        if data.startswith(b"a"):
            raise MalformedError("it", "wrong")
        return data[5]

    decoder = Decoder(decode=careless, seeds=(b"abcdef",), sealed=True)
    with pytest.raises(IndexError):
        check(decoder, b"b", is_forged=False)
    with pytest.raises(AssertionError, match="nobody sealed it"):
        check(decoder, b"bcdefghi", is_forged=True)
    assert not check(decoder, b"abc", is_forged=True)
    with pytest.raises((IndexError, AssertionError)):
        run(decoder, (random.Random(number) for number in range(1000)))


def test_control_changes_reach_behind_the_seal() -> None:
    """Of documents with a seal some are taken after they were changed: their bodies are read."""
    decoder = DECODERS["manifest"]
    chances = [random.Random(number) for number in range(150)]
    documents = {changed(decoder, chance)[0] for chance in chances} - set(decoder.seeds)
    assert len(documents) > 100
    assert any(check(decoder, data, is_forged=False) for data in documents)


# ---------------------------------------------------------------- what exhausts

BOUND_BYTES: Final = 600 * 2**20
BOUND_SECONDS: Final = 60

EXHAUSTING: Final = """
import resource, sys
from tests.fuzz import test_decoders
from tests.fuzz.harness import DECODERS, check
resource.setrlimit(resource.RLIMIT_AS, (test_decoders.BOUND_BYTES,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (test_decoders.BOUND_SECONDS,) * 2)
try:
    bytearray(test_decoders.BOUND_BYTES)
    sys.exit("the control: there is no bound")
except MemoryError:
    pass
for name, decoder in DECODERS.items():
    for data in test_decoders.exhausting(decoder):
        print(name, len(data), data[:60], flush=True)
        check(decoder, data, is_forged=False)
        if decoder.reseal is not None:
            check(decoder, decoder.reseal(data), is_forged=False)
print("survived")
"""


def exhausting(decoder: Decoder) -> Iterator[bytes]:
    """Documents that cost much, to who is careless: each as it is, and in the place of a seed's
    JSON."""
    depth, length = 30_000, 100_000
    bodies = [
        b"[" * depth,
        b'{"a":' * depth,
        b"[" * depth + b"]" * depth,
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b"9" * length,
        b"-" + b"9" * length + b".9e" + b"9" * 1000,
        b"[" + b"0," * length + b"0]",
        b"{" + b",".join(b'"%d":0' % number for number in range(20_000)) + b"}",
        b'"' + b"\\u0000" * 20_000 + b'"',
        b" " * length,
        b"=," * 50_000,
        b"{a=" * 50_000,
        b"*?" * 16_000,
        b"\xff" * 10_000,
        b"\0" * 10_000,
        (2**63 - 1).to_bytes(8, "big") * 1000,
    ]
    yield from bodies
    for seed in decoder.seeds[:1]:
        start = seed.find(b"{")
        if start >= 0:
            end = max(seed.rfind(b"}") + 1, start)
            for body in bodies:
                yield seed[:start] + body + seed[end:]
                yield seed[: end - 1] + b',"added":' + body + seed[end - 1 :]
        for at in range(4, min(len(seed), 40), 4):
            yield seed[:at] + b"\xff" * 8 + seed[at + 8 :]


def test_no_document_exhausts() -> None:
    """In so much memory and time of the processor, of which importing takes the larger part."""
    done = subprocess.run(
        [sys.executable, "-c", EXHAUSTING], check=False, capture_output=True, text=True
    )
    assert done.stdout.endswith("survived\n"), (done.stdout[-300:], done.stderr[-2000:])


# ---------------------------------------------------------------- nothing is forgotten


def readers() -> set[str]:
    """Functions of the package that read bytes or text of others, by module and name."""
    return {
        f"{'.'.join(path.relative_to(PACKAGE).with_suffix('').parts)}.{name}"
        for path in PACKAGE.rglob("*.py")
        for name in readers_in(path.read_text())
    }


def readers_in(source: str) -> set[str]:
    tree = ast.parse(source)
    decoders = {
        f"{dotted(target)}.decode"
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and "Decoder(" in ast.unparse(node)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    }
    return set(_readers_below(tree, "", decoders))


def _readers_below(tree: ast.AST, prefix: str, decoders: set[str]) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from _readers_below(node, f"{prefix}{node.name}.", decoders)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            calls = {dotted(c.func) for c in ast.walk(node) if isinstance(c, ast.Call)}
            if (
                node.name.startswith(("decode_", "parse_"))
                or calls & {*READS, *decoders}
                or any(c.endswith((".unpack", ".unpack_from", ".iter_unpack")) for c in calls)
            ):
                yield f"{prefix}{node.name}"


def dotted(node: ast.AST) -> str:
    """`a.b.c`; what is no name stands as `?`."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def test_each_decoder_has_an_entry() -> None:
    """A new function that reads what others wrote wants a place in the table."""
    covered = [name for decoder in DECODERS.values() for name in decoder.covers]
    found = readers()
    assert found - {*covered, *ELSEWHERE} == set()
    assert {*covered, *ELSEWHERE} - found == set()
    assert not {*covered} & {*ELSEWHERE}


def test_control_a_decoder_is_found() -> None:
    source = (
        "_D = msgspec.json.Decoder(int)\n"
        "def decode_a(): pass\n"
        "class B:\n    def c(self, d):\n        return json.loads(d)\n"
        "def e(d): return _D.decode(d)\n"
        "def f(d): return _HEAD.unpack(d)\n"
        "def g(d): return d.decode()\n"
    )
    assert readers_in(source) == {"decode_a", "B.c", "e", "f"}
