"""The guard of a connection: time-outs and limits that an ASGI application cannot see.

uvicorn's protocol waits for the headers of a request for ever, and accepts any number of them.
This one does not, nor does it keep a connection whose client continues to send a body after the answer. And it
asks the application for a cached answer to a plain read, before it creates a task. It uses a few
methods of that class, which `NEEDED` lists and a test looks for; it was tested with uvicorn 0.54.
"""

from __future__ import annotations

from asyncio import TimerHandle, Transport
from collections.abc import Callable, MutableMapping
from typing import Any, Final, Protocol, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from taskfold.http.answers import Header
from taskfold.http.serve.limits import Limits, Slots, TooMany, Unsent
from taskfold.http.serve.strangers import is_loopback
from taskfold.http.serve.tls import UNCERTIFIED

__all__ = ["NEEDED", "guarded"]

NEEDED: Final = (
    "connection_made",
    "connection_lost",
    "data_received",
    "on_message_begin",
    "on_headers_complete",
    "on_body",
    "on_message_complete",
    "on_response_complete",
    "pause_writing",
    "resume_writing",
    "timeout_keep_alive_handler",
    "_unset_keepalive_if_required",
)
"""The methods of uvicorn's protocol that are used."""

_GRACE: Final = 5
"""Seconds until a timed-out connection is cut: for the application's answer, or the end of its body."""

_UNUSUAL: Final = frozenset((b"content-length", b"transfer-encoding", b"expect", b"upgrade"))
"""Headers of requests that are no plain reads."""


class AnswersAtOnce(Protocol):
    """An application that may have a cached answer to a read."""

    def may_answer_at_once(self, target: bytes) -> bool:
        """Return whether there may be an answer for a path and query."""

    def at_once(self, target: bytes, scope: MutableMapping[str, Any]) -> tuple[tuple[Header, ...], bytes] | None:
        """Return the headers and the body of the 200 for a GET; None if the application must be called."""


_NO_CERTIFICATE: Final = b"this server takes requests of clients with a certificate alone"
_REFUSALS: Final = {
    400: b"Bad Request",
    403: b"Forbidden",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}


class _Guarded(HttpToolsProtocol):
    """One connection. Times and sizes are those of `Limits`."""

    limits: Limits
    slots: Slots
    """Counts the connections."""
    unsent: Unsent
    reader: AnswersAtOnce | None = None
    """Has cached answers; without it, every request is a task."""
    needs_certificate: bool = False
    """Clients must have a certificate; without one, this machine alone is answered, and about health alone."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        name = transport.get_extra_info("sockname")
        if self.server is None and isinstance(name, str):
            self.server = (name, None)  # older releases of uvicorn do not tell of a socket of the file system
        self._is_head = False
        """A request has begun, and its headers are not complete."""
        self._head_bytes = 0
        """The bytes received of it so far."""
        self._coming_bytes = 0
        """The size of the last packet, which may contain a whole request."""
        self._timer: TimerHandle | None = None
        self._unsent = 0
        """The unsent bytes at the last look."""
        self._stuck: TimerHandle | None = None
        self._leaving: TimerHandle | None = None
        self._address = self.client[0] if self.client else ""
        self._is_counted = False
        self._is_answered = False
        """The present request was answered from the cache."""
        self._is_uncertified = self.needs_certificate and not transport.get_extra_info("peercert")
        try:
            self.slots.take(self._address)
        except TooMany as reason:
            self._refuse(503, str(reason).encode())
        else:
            self._is_counted = True
            if self._is_uncertified and not is_loopback(self._address):
                self._refuse(403, _NO_CERTIFICATE)
            else:
                self._wait_for_head()

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(self.limits.header_timeout, self._refuse, 408)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        if not self._is_counted:
            return
        self._coming_bytes = len(data)
        super().data_received(data)
        if self._is_head:
            # It has not come whole, as nearly all do: what there is of it is somewhere in the parser.
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.header_bytes:
                self._refuse(431)
        elif self._is_answering or self.timeout_keep_alive_task is not None:
            return  # an answer is on its way, or has just been given, and waits for what comes next by itself
        # What is no request yet, such as an empty line, has ended uvicorn's own wait for one all the same.
        if self._timer is None and not self.transport.is_closing():
            self._wait_for_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._is_uncertified:
            self.scope[UNCERTIFIED] = True  # type: ignore[typeddict-unknown-key]  # a key of ours
        self._is_head = True
        self._is_answered = False

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        # What has come may be more than the head; it is counted only where it could be too much.
        may_exceed = self._head_bytes + self._coming_bytes > self.limits.header_bytes
        self._is_head = False
        self._head_bytes = 0
        if may_exceed and self._head_size > self.limits.header_bytes:
            self._refuse(431)
        elif problem := self._host_problem:
            self._refuse(400, b"400 Bad Request: " + problem)
        elif not self.transport.is_closing() and not self._answer_at_once():
            self._unset_keepalive_if_required()  # one before it in the same packet may have been answered at once
            super().on_headers_complete()

    def _answer_at_once(self) -> bool:
        """Answer a plain request from the cache; tell whether it was possible.

        It writes what uvicorn would, without a task and messages, which are two fifths of the cost of such a
        request.
        """
        parser, reader = self.parser, self.reader
        if reader is None or self._is_uncertified or not reader.may_answer_at_once(self.url):
            return False
        if self._is_answering or self.pipeline or self.flow.write_paused:
            return False  # it waits for what is before it
        is_plain = parser.get_method() == b"GET" and parser.get_http_version() == "1.1" and parser.should_keep_alive()
        if not is_plain or parser.should_upgrade() or any(name in _UNUSUAL for name, _ in self.headers):
            return False
        whole = reader.at_once(self.url, cast("MutableMapping[str, Any]", self.scope))
        if whole is None:
            return False
        headers, body = whole
        parts = [STATUS_LINE[200]]
        is_told = False
        for name, value in (*self.server_state.default_headers, *headers):
            lower = name.lower()
            is_told |= lower == b"content-length"
            parts += (lower, b": ", value, b"\r\n")
        if is_told:
            parts += (b"\r\n", body)
        else:
            parts += (b"transfer-encoding: chunked\r\n\r\n%x\r\n" % len(body), body, b"\r\n0\r\n\r\n")
        self._is_answered = True
        self.transport.write(b"".join(parts))
        super().on_response_complete()
        return True

    @property
    def _host_problem(self) -> bytes:
        """Go's error for a wrong number of Host headers; empty if there is none. Source: net/http."""
        count = sum(name == b"host" for name, _ in self.headers)
        if count > 1:
            return b"too many Host headers"
        return b"" if count or self.parser.get_http_version() == "1.0" else b"missing required Host header"

    @property
    def _head_size(self) -> int:
        """The size of the request's first line and headers, in bytes."""
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def on_message_complete(self) -> None:
        if self._leaving is not None:
            self.transport.close()
        elif not self.transport.is_closing() and not self._is_answered:
            super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def on_response_complete(self) -> None:
        is_read = bool(self.pipeline) or not self.cycle.more_body
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_sending()
        elif not is_read:
            # The rest of the body is not looked at, but closing before it has come could cost the client the answer.
            self._leaving = self.loop.call_later(_GRACE, self.transport.abort)

    def _refuse(self, status: int, text: bytes = b"") -> None:
        """Answer an incomplete request, and close the connection."""
        if self.transport.is_closing():
            return
        if not self._is_answering:  # else it would be taken for, or stand amid, the answer of the request before
            head = b"HTTP/1.1 %d %b\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            self.transport.write(head % (status, _REFUSALS[status], len(text)) + text)
        self.transport.close()
        self._watch_sending()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_sending()
        self.unsent.add(self, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        self.unsent.remove(self)
        if not self.transport.is_closing():
            self._stop_watching()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_sending()  # a connection that is closed stays until its last answer is taken

    def _watch_sending(self) -> None:
        """Cut the connection if its client takes no data for too long."""
        if self._stuck is None:
            self._unsent = self.transport.get_write_buffer_size()
            self._stuck = self.loop.call_later(self.limits.send_timeout + _GRACE, self._check_sending)

    def _check_sending(self) -> None:
        self._stuck = None
        unsent = self.transport.get_write_buffer_size()
        if unsent and unsent >= self._unsent:
            self.transport.abort()
        elif unsent:
            self._watch_sending()

    def cut(self) -> None:
        """Cut the connection, and drop unsent data."""
        self.transport.abort()

    def _stop_watching(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_watching()
        if self._leaving is not None:
            self._leaving.cancel()
        self.unsent.remove(self)
        if self._is_counted:
            self._is_counted = False
            self.slots.give(self._address)
        super().connection_lost(exc)


def guarded(
    limits: Limits,
    slots: Slots,
    unsent: Unsent,
    reader: AnswersAtOnce | None = None,
    *,
    needs_certificate: bool = False,
) -> Callable[..., Any]:
    """Return the protocol with these limits, as uvicorn wants it: a class."""
    members = {
        "limits": limits,
        "slots": slots,
        "unsent": unsent,
        "reader": reader,
        "needs_certificate": needs_certificate,
    }
    return type("GuardedProtocol", (_Guarded,), members)
