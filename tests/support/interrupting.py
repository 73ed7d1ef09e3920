"""Interruptions: KeyboardInterrupt at the n-th instruction at which the interpreter looks for signals.

A signal is not raised anywhere: CPython runs its handler when a function begins, after a call, and when a loop goes
round. So a trace function, which would raise between any two lines, finds places where nothing is ever raised, such as
between the end of a `with` and the release of its lock. Here it only leaves a signal for the interpreter to find, as an
alarm would, when the instruction that comes next is one that looks for them. What is done by the C library (a COMMIT, a
write) is over by then, or has not begun.
"""

from __future__ import annotations

import _thread
import dis
import sys
from collections import defaultdict
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

_LOOKS: Final = {
    dis.opmap[name] for name in ("CALL", "CALL_FUNCTION_EX", "CALL_KW", "JUMP_BACKWARD", "RESUME") if name in dis.opmap
}


def interrupted(call: Callable[[], object], n: int, m: int = 0) -> tuple[bool, int]:
    """Call, and raise KeyboardInterrupt at the n-th place (and m places later once more); 0 is never.

    Return whether it came so far, and how many places there were.
    """
    places = 0
    # What makes a signal wait without looking for one itself: an item that is missing is made by a function of C.
    pending: defaultdict[int, None] = defaultdict(_thread.interrupt_main)
    at = {n, n + m} if m else {n}

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal places
        if event == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        if event == "call" or (event == "opcode" and frame.f_code.co_code[frame.f_lasti] in _LOOKS):
            places += 1
            if places in at:
                pending[places]
        return trace

    before, hook = sys.gettrace(), sys.unraisablehook
    is_raised = False
    try:
        try:
            # What is let go of in between tells so, in Python, which would be interrupted, too.
            sys.unraisablehook = [].append
            sys.settrace(trace)
            call()
        finally:
            sys.settrace(before)
            sys.unraisablehook = hook
    except KeyboardInterrupt:
        is_raised = True
    return is_raised, places
