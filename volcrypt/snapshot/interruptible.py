"""Waiting for a service without being deaf to Ctrl-C.

A call into compiled code is not interrupted by a signal: Python sees it when the call returns,
which may be minutes later. So in the main thread, where signals are handled, another one makes the
call. What it was about goes on when the wait was interrupted, and nobody hears of it.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def interruptibly(call: Callable[[], Result]) -> Result:
    """What `call` answers or raises; KeyboardInterrupt at once."""
    if threading.current_thread() is not threading.main_thread():
        return call()
    outcome: Future[Result] = Future()

    def make() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    # A daemon, so that the process can end without it.
    threading.Thread(target=make, daemon=True).start()
    return outcome.result()
