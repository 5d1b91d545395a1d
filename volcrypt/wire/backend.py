"""The home's KMS as the wire needs it: several requests at once, of which each is looked at again.

Everything here is called in the engine's thread.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from volcrypt.errors import VolcryptError
from volcrypt.kms import service as kms
from volcrypt.kms.messages.base import Request, Response
from volcrypt.kms.model import Caller
from volcrypt.kms.service import KmsService, Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to one account and region; `check` is asked first, and raises when the caller
    may not call any more."""

    service: KmsService
    caller: Caller
    request: Request[Any]
    request_id: str
    check: Callable[[], None]


class Backend:
    """What serves all accounts and regions of one home."""

    def __init__(self, service: KmsService) -> None:
        self.service = service

    def perform_all(self, calls: Sequence[Call]) -> list[Response | VolcryptError]:
        """In their order, with one sync of the audit log; errors are returned."""
        return self.service.perform_all(
            [
                kms.Call(
                    service=call.service,
                    caller=call.caller,
                    request=call.request,
                    request_id=call.request_id,
                )
                for call in calls
            ]
        )

    def refuse(
        self,
        service: KmsService,
        caller: Caller,
        operation: str,
        request_id: str,
        error: VolcryptError,
    ) -> None:
        """Record a request that could not be read."""
        refusal = Refusal(operation=operation, error=error)
        call = kms.Call(service=service, caller=caller, request=refusal, request_id=request_id)
        (result,) = self.service.perform_all([call])
        if result is not error:
            assert isinstance(result, VolcryptError), "internal error: a refusal with an answer"
            raise result
