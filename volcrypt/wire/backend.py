"""What a home's service is asked for beside requests: by the home's own commands and the timer.

Everything here is called in the engine's thread.
"""

from volcrypt.kms.model import Caller
from volcrypt.kms.service import KmsService


def maintain(service: KmsService) -> None:
    """Do what is due: deletions, expiries, rotations."""
    service.maintain()


def has_principal(service: KmsService, arn: str) -> bool:
    return service.has_principal(arn)


def authorise(service: KmsService, caller: Caller, action: str) -> None:
    """Check and record that the caller may do something to the home as a whole."""
    service.authorise(caller, action)
