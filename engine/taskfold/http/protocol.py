"""The guard of a connection: time-outs and limits that an ASGI application cannot see.

uvicorn's protocol waits for the headers of a request as long as a client likes, and takes as many of them as it sends.
This one does not. It uses a few methods of that class, which `NEEDED` lists and a test looks for.
"""

from __future__ import annotations

from asyncio import TimerHandle, Transport
from collections.abc import Callable
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from taskfold.http.limits import Limits

__all__ = ["NEEDED", "guarded"]

NEEDED: Final = (
    "connection_made",
    "connection_lost",
    "data_received",
    "on_message_begin",
    "on_url",
    "on_header",
    "on_headers_complete",
    "on_message_complete",
    "pause_writing",
    "resume_writing",
    "timeout_keep_alive_handler",
)
"""What is used of uvicorn's protocol."""

_GRACE: Final = 5
"""Seconds after which a connection that takes nothing is cut, once the application has had its time to tell it so."""

_REFUSALS: Final = {408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


class _Guarded(HttpToolsProtocol):
    """One connection. Times and sizes are those of `Limits`."""

    limits = Limits()

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        self._is_head = False
        """A request has begun, and its headers are not complete."""
        self._head_bytes = 0
        self._timer: TimerHandle | None = None
        self._stuck: TimerHandle | None = None
        self._wait_for_head()

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(self.limits.header_timeout, self._refuse, 408)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_head and not self.transport.is_closing():
            # It has not come whole, as nearly all do: what there is of it is somewhere in the parser.
            if self._timer is None:
                self._wait_for_head()
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.header_bytes:
                self._refuse(431)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_head = True
        self._told_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._told_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._told_bytes += len(name) + len(value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        self._is_head = False
        self._head_bytes = 0
        if self._told_bytes > self.limits.header_bytes:
            self._refuse(431)
        else:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.transport.is_closing():
            super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def _refuse(self, status: int) -> None:
        """Answer a request that is not a whole one, and close the connection."""
        if not self.transport.is_closing():
            head = b"HTTP/1.1 %d %b\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % (status, _REFUSALS[status])
            self.transport.write(head)
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(self.limits.send_timeout + _GRACE, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unstick()

    def _unstick(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # it never took its last answer
        super().timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._unstick()
        super().connection_lost(exc)


def guarded(limits: Limits) -> Callable[..., Any]:
    """Return the protocol with these limits, as uvicorn wants it: a class."""
    return type("GuardedProtocol", (_Guarded,), {"limits": limits})
