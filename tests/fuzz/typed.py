"""Entries for what people write: ids, names, sizes, times, structures, the configuration."""

from pathlib import Path
from typing import Final

from tests.fuzz.decoders import REFUSED, Decoder, text
from tests.fuzz.stored import in_file
from volcrypt import geometry, names
from volcrypt.cli import fill_rate, kms_options, shorthand, times
from volcrypt.formats import audit_record
from volcrypt.operations import suggestions, verification
from volcrypt.settings import CONFIG_FILE, read_settings
from volcrypt.snapshot import pace
from volcrypt.wire import listener

_CONFIG: Final = b"""\
[profiles.default]
region = "eu-west-1"
[kms]
pin_file = "/run/pin"
[mounts]
key_check_seconds = 1
"""


def _suggest(home: Path) -> object:
    """Everything that is suggested."""
    return [
        suggest(home)
        for suggest in (suggestions.volumes, suggestions.snapshots, suggestions.stores)
    ]


TYPED_DECODERS: Final[dict[str, Decoder]] = {
    "volume id": Decoder(
        decode=text(names.parse_volume_id),
        seeds=(b"vol-0123456789abcdef0",),
        refusals=REFUSED,
        covers=("names.parse_volume_id",),
    ),
    "snapshot id": Decoder(
        decode=text(names.parse_snapshot_id),
        seeds=(b"snap-0123456789abcdef0",),
        refusals=REFUSED,
        covers=("names.parse_snapshot_id",),
    ),
    "store id": Decoder(
        decode=text(names.parse_store_id),
        seeds=(b"store-0123456789abcdef0",),
        refusals=REFUSED,
        covers=("names.parse_store_id",),
    ),
    "name": Decoder(
        decode=text(names.parse_name),
        seeds=(b"nightly-2026.11_22", b"a"),
        refusals=REFUSED,
        covers=("names.parse_name",),
    ),
    "size": Decoder(
        decode=text(lambda given: geometry.check_volume_size(geometry.parse_size(given))),
        seeds=(b"10GiB", b"500M", b"4096", b"8192B", b"1TB"),
        refusals=REFUSED,
        covers=("geometry.parse_size",),
    ),
    "rate": Decoder(
        decode=text(pace.parse_rate),
        seeds=(b"50MiB/s", b"500K"),
        refusals=REFUSED,
        covers=("snapshot.pace.parse_rate",),
    ),
    "fill rate": Decoder(
        decode=text(fill_rate.parse_fill_rate),
        seeds=(b"0", b"50MiB"),
        refusals=REFUSED,
        covers=("cli.fill_rate.parse_fill_rate",),
    ),
    "time": Decoder(
        decode=text(times.read_time),
        seeds=(b"2026-01-31T12:00:00Z", b"1800000000", b"1.5", b"2026-01-31"),
        refusals=REFUSED,
    ),
    "structure": Decoder(
        decode=text(shorthand.parse_structure),
        seeds=(b'a=b,c={d="e\\"",f=[g,h]}', b'{"a": [1, "b"]}', b'["a", {"b": 1}]'),
        refusals=REFUSED,
        covers=("cli.shorthand.parse_structure",),
    ),
    "map": Decoder(
        decode=text(kms_options.read_map),
        seeds=(b"a=b,c=d", b'{"a": "b"}'),
        refusals=REFUSED,
    ),
    "address to listen on": Decoder(
        decode=text(listener.parse_address),
        seeds=(b"127.0.0.1:8599", b"[::1]:80"),
        refusals=REFUSED,
        covers=("wire.listener.parse_address",),
    ),
    "public key": Decoder(
        decode=text(verification.parse_public_key),
        seeds=(b"ab" * 32,),
        refusals=REFUSED,
        covers=("operations.verification.parse_public_key",),
    ),
    "head of a store's log": Decoder(
        decode=text(verification.parse_head),
        seeds=(b"00112233:7:" + b"ab" * 32,),
        refusals=REFUSED,
        covers=("operations.verification.parse_head",),
    ),
    "head of an audit log": Decoder(
        decode=text(audit_record.parse_point),
        seeds=(b"7:" + b"ab" * 32,),
        refusals=REFUSED,
        covers=("formats.audit_record.parse_point",),
    ),
    "configuration": Decoder(
        decode=in_file(read_settings, CONFIG_FILE),
        seeds=(_CONFIG,),
        refusals=REFUSED,
        covers=("settings.read_settings", "settings._value_problems", "settings._rest"),
    ),
    "suggestions": Decoder(
        decode=in_file(_suggest, "volumes/vol-1/record"),
        seeds=(b'volcrypt volume 1\n{"name":"a","volume_id":"vol-1"}\nab\n',),
        refusals=(),
        covers=("operations.suggestions._bodies",),
    ),
}
