"""What a home's service is asked for beside requests: by the home's own commands and the timer.

Everything here is called in the engine's thread.
"""

from volcrypt.errors import UnsupportedOperationError
from volcrypt.kms.model import Caller
from volcrypt.kms.service import KmsService


def maintain(service: KmsService) -> None:
    """Do what is due: deletions, expiries, rotations."""


def has_principal(service: KmsService, arn: str) -> bool:
    return False


def authorise(service: KmsService, caller: Caller, action: str) -> None:
    """Check and record that the caller may do something to the home as a whole."""
    raise UnsupportedOperationError(f"{action} is not supported")
