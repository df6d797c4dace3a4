"""Kill a thread of this process, as an error does that its author did not think of."""

from __future__ import annotations

import ctypes
import threading


class Killed(BaseException):
    """Caught by nothing but a supervisor."""


def kill_thread(name: str) -> None:
    """Raise Killed in the thread at its next step."""
    (thread,) = (thread for thread in threading.enumerate() if thread.name == name)
    assert thread.ident
    raised = ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident), ctypes.py_object(Killed)
    )
    assert raised == 1
