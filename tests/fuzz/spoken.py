"""Entries for what is said: to the KMS over HTTP and its own sockets, to processes of volumes."""

import hashlib
import json
import socket
import threading
from base64 import b64encode
from collections.abc import Callable
from typing import Any, Final

import msgspec

from tests.fuzz.decoders import REFUSED, Decoder, example, example_line, text, union_examples
from tests.wire.signing import ACCESS_KEY, NOW, SECRET, signed
from volcrypt.errors import FormatError, KmsError, VolcryptError
from volcrypt.kms import frames, key_store_messages
from volcrypt.kms.conditions import parse_condition
from volcrypt.kms.grants import _TOKEN_BYTES, decode_token
from volcrypt.kms.paging import decode_marker, encode_marker
from volcrypt.kms.patterns import KnownFacts
from volcrypt.kms.policy_document import PolicyKind, read_policy
from volcrypt.kms.protocol import HOME_OPERATIONS, decode_request, parse_json
from volcrypt.kms.reference import parse_key_reference
from volcrypt.volume import control_messages, fence, launch
from volcrypt.wire import home_messages
from volcrypt.wire.claim import HttpRequest, check_claim, read_claim
from volcrypt.wire.remote import decode_response
from volcrypt.wire.signature import check_signature, derive_signing_key

_KEYS: Final = KnownFacts(
    {
        "kms:encryptioncontext:a": ("b", "\u00fc", "1", "2026-01-31T12:00:00Z", "AAEC", "\u0663"),
        "aws:sourceip": ("127.0.0.1",),
        "aws:currenttime": ("2026-01-31T12:00:00Z",),
    }
)
_VALUES: Final = {
    "StringEquals": "1",
    "StringLike": "a*?",
    "NumericEquals": "1",
    "NumericLessThan": "1.5e3",
    "DateEquals": "2026-01-31T12:00:00+02:00",
    "DateGreaterThan": "1800000000",
    "Bool": "true",
    "BinaryEquals": "AAEC",
    "IpAddress": "10.0.0.0/8",
    "ArnLike": "arn:aws:kms:*:*:key/${kms:EncryptionContext:a, 'x'}*",
    "Null": "false",
    "ForAllValues:StringLike": "*",
    "StringEqualsIfExists": "x",
}
"""By operator of conditions, what it may be compared with."""


def _kms_body(operation: str) -> Callable[[bytes], object]:
    kind = HOME_OPERATIONS[operation].request
    return lambda data: decode_request(kind, parse_json(data))


def _any_kms_body(data: bytes) -> object:
    """The first line says which operation, the rest is its body."""
    name, _, body = data.partition(b"\n")
    operation = HOME_OPERATIONS.get(name.decode("latin-1"), HOME_OPERATIONS["ListKeys"])
    return decode_request(operation.request, parse_json(body))


def _bodies() -> tuple[bytes, ...]:
    return tuple(
        name.encode() + b"\n" + example_line(operation.request)
        for name, operation in HOME_OPERATIONS.items()
    )


def _policy(kind: PolicyKind) -> Callable[[bytes], object]:
    def decode(data: bytes) -> object:
        policy = read_policy(data.decode(errors="surrogateescape"), kind)
        for statement in policy.statements:
            for condition in statement.conditions:
                condition.holds(_KEYS, denies=True)
        return policy

    return decode


def _policy_seed(**other: Any) -> bytes:
    statement = {
        "Sid": "a",
        "Effect": "Allow",
        "Action": ["kms:*", "kms:Decr?pt"],
        "Resource": "*",
        "Condition": {name: {"kms:EncryptionContext:a": [v]} for name, v in _VALUES.items()},
        **other,
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]}).encode()


_PRINCIPALS: Final = {"AWS": ["arn:aws:iam::000000000000:root", "000000000001"]}


def _condition(data: bytes) -> object:
    """Operator, key and values, one JSON document."""
    try:
        operator, key, values = json.loads(data)
        json.dumps([operator, key, values], ensure_ascii=False).encode()  # else it is no policy
    except (ValueError, TypeError, RecursionError):
        return None
    if not isinstance(operator, str) or not isinstance(key, str):
        return None
    condition = parse_condition(operator, key, values, variables=True)
    return [condition.holds(_KEYS, denies=denies) for denies in (True, False)]


_CONDITION_SEEDS: Final = tuple(
    json.dumps([name, "kms:EncryptionContext:a", [value]]).encode()
    for name, value in _VALUES.items()
)


def _request(data: bytes) -> object:
    """A head of HTTP: request line, headers, an empty line, body; and all checks of a signature."""
    head, _, body = data.partition(b"\n\n")
    first, *lines = head.decode("latin-1").split("\n")
    method, _, target = first.partition(" ")
    path, _, query = target.partition("?")
    headers = [(n.lower(), v) for n, _, v in (line.partition(": ") for line in lines)]
    request = HttpRequest(method=method, path=path, query=query, headers=headers, body=body)
    claim = read_claim(request)
    check_claim(claim, service="kms", now=NOW)
    key = derive_signing_key(
        SECRET.encode(), date=claim.date, region=claim.region, service=claim.service
    )
    check_signature(request, claim, key)
    return claim.access_key_id == ACCESS_KEY


def _request_seed(**given: Any) -> bytes:
    request = signed(**given)
    query = f"?{request.query}" if request.query else ""
    lines = [f"{request.method} {request.path}{query}"]
    lines += [f"{name}: {value}" for name, value in request.headers]
    return "\n".join(lines).encode("latin-1") + b"\n\n" + request.body


def _through_a_socket(
    receive: Callable[[socket.socket], object],
) -> Callable[[bytes], object]:
    """Somebody says this and hangs up."""

    def decode(data: bytes) -> object:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.settimeout(30)
            sender = threading.Thread(target=_say, args=(theirs, data))
            sender.start()
            try:
                return receive(ours)
            finally:
                ours.close()
                sender.join()

    return decode


def _say(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
    except OSError:  # they do not listen any more
        pass


def _assignment_seed() -> bytes:
    document = example(launch.Assignment) | {"lazy": None, "migration": None}
    line = json.dumps(document).encode()
    return launch._LENGTH.pack(len(line)) + line + bytes(range(64)) + bytes(32)


def _assignment_length(data: bytes) -> bytes:
    """The length is that of what follows, without the keys."""
    line = data[launch._LENGTH.size : -96]
    return launch._LENGTH.pack(len(line)) + line + data[-96:]


def _frame_seed(call: Any) -> bytes:
    body = msgspec.msgpack.encode(call)
    return frames.LENGTH.pack(len(body)) + body


def _answer_of_a_kms(data: bytes) -> object:
    try:
        members = json.loads(data)
    except (ValueError, RecursionError):
        return None
    wanted = response_of("DescribeKey")
    return decode_response(members, wanted) if isinstance(members, dict) else None


def response_of(operation: str) -> Any:
    from volcrypt.wire.home_client import response_type

    return response_type(HOME_OPERATIONS[operation].request)


def _token_seed() -> bytes:
    body = b"\1" + bytes(range(_TOKEN_BYTES - 9))
    return b64encode(body + hashlib.sha256(body).digest()[:8])


SPOKEN_DECODERS: Final[dict[str, Decoder]] = {
    "body of a request to the KMS": Decoder(
        decode=_any_kms_body,
        seeds=_bodies(),
        refusals=(KmsError,),
        covers=(
            "kms.protocol.parse_json",
            "kms.protocol.decode_request",
            "kms.messages.reading.read_request",
            "kms.messages.reading._read_scalar",
        ),
    ),
    "signed request": Decoder(
        decode=_request,
        seeds=(
            _request_seed(),
            _request_seed(target="/?b=2&a=1"),
            _request_seed(headers={"Date": "Fri, 15 Jan 2027 08:00:00 GMT", "X-Amz-Target": "t"}),
        ),
        refusals=(KmsError,),
    ),
    "key policy": Decoder(
        decode=_policy(PolicyKind.KEY),
        seeds=(_policy_seed(Principal=_PRINCIPALS),),
        refusals=(KmsError,),
        covers=(
            "kms.policy_document.parse_policy",
            "kms.policy_document._parse_json",
        ),
    ),
    "identity policy": Decoder(
        decode=_policy(PolicyKind.IDENTITY), seeds=(_policy_seed(),), refusals=(KmsError,)
    ),
    "condition": Decoder(
        decode=_condition,
        seeds=_CONDITION_SEEDS,
        refusals=(KmsError,),
        covers=("kms.conditions.parse_condition", "kms.conditions._binary"),
    ),
    "grant token": Decoder(
        decode=text(decode_token),
        seeds=(_token_seed(),),
        refusals=(KmsError,),
        covers=("kms.grants.decode_token",),
    ),
    "marker": Decoder(
        decode=text(decode_marker),
        seeds=(encode_marker("0123").encode(), encode_marker("\u00fc").encode()),
        refusals=(KmsError,),
        covers=("kms.paging.decode_marker",),
    ),
    "key reference": Decoder(
        decode=text(lambda given: parse_key_reference(given, account="0" * 12, region="us-east-1")),
        seeds=(
            b"arn:aws:kms:us-east-1:000000000000:key/0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
            b"alias/volcrypt/ebs",
            b"0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
        ),
        refusals=(KmsError,),
        covers=("kms.reference.parse_key_reference",),
    ),
    "answer of another KMS": Decoder(
        decode=_answer_of_a_kms,
        seeds=(example_line(response_of("DescribeKey")),),
        refusals=(KmsError,),
        covers=("wire.remote.decode_response",),
    ),
    # Sockets of our own
    "call to the home's KMS": Decoder(
        decode=home_messages.decode_call,
        seeds=tuple(
            json.dumps({"call": name, "arguments": example(kind)}).encode()
            for name, kind in home_messages.CALLS.items()
        ),
        refusals=(FormatError,),
        covers=("wire.home_messages.decode_call",),
    ),
    "answer of the home's KMS": Decoder(
        decode=lambda data: _error_of(home_messages.decode_reply(data)),
        seeds=(
            b'{"result":{"a":1}}',
            b'{"error":{"class":"KmsError","message":"m","hint":"h","fields":{"a":1}}}',
            b'{"error":{"class":"RangeError","message":"m"}}',
        ),
        refusals=(FormatError,),
        covers=("wire.home_messages.decode_reply",),
    ),
    "control request": Decoder(
        decode=control_messages.decode_request,
        seeds=union_examples(control_messages.Request),
        refusals=(FormatError,),
        covers=("volume.control_messages.decode_request",),
    ),
    "control answer": Decoder(
        decode=control_messages.decode_answer,
        seeds=union_examples(control_messages.Answer),
        refusals=(FormatError,),
        covers=("volume.control_messages.decode_answer",),
    ),
    "bits of a control document": Decoder(
        decode=lambda data: control_messages.unpack_bits(data, 2**40),
        seeds=(control_messages.pack_bits(bytes(2**18)),),
        refusals=(FormatError,),
    ),
    "watch order": Decoder(
        decode=fence.decode_order,
        seeds=(example_line(fence.WatchOrder),),
        refusals=(FormatError,),
        covers=("volume.fence.decode_order",),
    ),
    "answer of a watcher": Decoder(
        decode=fence.decode_answer,
        seeds=union_examples(fence.WatchAnswer),
        refusals=(FormatError,),
        covers=("volume.fence.decode_answer",),
    ),
    "assignment": Decoder(
        decode=_through_a_socket(launch.receive_assignment),
        seeds=(_assignment_seed(),),
        refusals=REFUSED,
        reseal=_assignment_length,
        covers=("volume.launch.receive_assignment",),
    ),
    "call to a key store": Decoder(
        decode=_through_a_socket(frames.receive_frame),
        seeds=(
            _frame_seed(key_store_messages.Random(32)),
            _frame_seed(key_store_messages.Retire(3)),
        ),
        refusals=(FormatError,),
        covers=("kms.frames.receive_frame",),
    ),
}


def _error_of(reply: home_messages.Reply) -> VolcryptError | None:
    return None if reply.error is None else home_messages.error_of(reply.error)
