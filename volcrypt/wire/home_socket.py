"""The socket of a home, served by the process that holds it: RUNTIME/kms.sock.

The other processes of the home go through it. Who connects must be the home's owner, or root, as
the kernel says (SO_PEERCRED); he is the account root, and says himself as which principal he acts.
Lines are those of `home_messages`; the calls of a connection are answered one after the other.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, cast

from volcrypt.errors import (
    KmsInternalError,
    MalformedError,
    UnsupportedOperationError,
    VolcryptError,
)
from volcrypt.kms.protocol import HOME_OPERATIONS, decode_request, parse_json
from volcrypt.kms.service import Call, KmsService
from volcrypt.wire.engine import Engine
from volcrypt.wire.home_messages import (
    MAX_LINE_BYTES,
    Arguments,
    AuditHeadArguments,
    AuthoriseArguments,
    DeriveHomeKeyArguments,
    HasPrincipalArguments,
    MaintainArguments,
    PerformArguments,
    RegisterApplyArguments,
    RegisterEntriesArguments,
    RegisterFindArguments,
    RegisterGetArguments,
    VolumeSettingsArguments,
    decode_call,
    encode_error,
    encode_result,
)

_PEER: Final = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""


class HomeSocket:
    """Answers on connections to the socket."""

    def __init__(
        self,
        service: KmsService,
        engine: Engine,
        *,
        users: frozenset[int],
        report: Callable[[BaseException], None],
    ) -> None:
        """`users` are the user ids that may connect; `report` is told of bugs."""
        self._service = service
        self._engine = engine
        self._users = users
        self._report = report
        self._writers: set[asyncio.StreamWriter] = set()

    async def listen(self, listening: socket.socket) -> asyncio.Server:
        return await asyncio.start_unix_server(self._serve, sock=listening, limit=MAX_LINE_BYTES)

    def close_connections(self) -> None:
        for writer in list(self._writers):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if peer_user(writer.get_extra_info("socket")) not in self._users:
                return
            while line := await reader.readline():
                writer.write(await self._answer(line))
                await writer.drain()
        except (OSError, ValueError):
            pass  # gone, or a line that is too long: nobody to tell
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, line: bytes) -> bytes:
        try:
            return encode_result(await self._do(decode_call(line)))
        except VolcryptError as error:
            return encode_error(error)
        except Exception as error:
            self._report(error)
            return encode_error(KmsInternalError("internal error"))

    async def _do(self, arguments: Arguments) -> Any:
        if isinstance(arguments, PerformArguments):
            return await self._perform(arguments)
        return await self._engine.run(lambda: self._call(arguments))

    async def _perform(self, arguments: PerformArguments) -> Any:
        if arguments.operation not in HOME_OPERATIONS:
            raise UnsupportedOperationError("the operation is not supported")
        members = parse_json(bytes(arguments.request))
        call = Call(
            service=self._service.scope(arguments.account, arguments.region),
            caller=arguments.caller,
            request=decode_request(HOME_OPERATIONS[arguments.operation].request, members),
        )
        return await self._engine.perform(call)

    def _call(self, arguments: Arguments) -> Any:
        """In the engine's thread."""
        service = self._service
        match arguments:
            case RegisterGetArguments():
                return service.register.get(arguments.kind, arguments.id)
            case RegisterFindArguments():
                return service.register.find(arguments.kind, arguments.name)
            case RegisterEntriesArguments():
                return service.register.entries(arguments.kind)
            case RegisterApplyArguments():
                expect = {(kind, id_): counter for kind, id_, counter in arguments.expect}
                service.register.apply(put=arguments.put, delete=arguments.delete, expect=expect)
                return None
            case DeriveHomeKeyArguments():
                return service.derive_home_key(arguments.info)
            case AuditHeadArguments():
                return service.audit_head()
            case HasPrincipalArguments():
                return service.has_principal(arguments.arn)
            case AuthoriseArguments():
                scope = service.scope(arguments.account, arguments.region)
                scope.authorise(
                    arguments.caller,
                    arguments.action,
                    key_arn=arguments.key_arn,
                    context=arguments.context,
                )
                return None
            case VolumeSettingsArguments():
                return service.volume_settings(arguments.account, arguments.region)
            case MaintainArguments():
                service.maintain()
                return None
            case _:
                raise MalformedError("call to the KMS of the home", "nobody answers it")


def peer_user(connection: socket.socket) -> int:
    """The user id of the process at the other end."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    _, user, _ = _PEER.unpack(data)
    return cast(int, user)
