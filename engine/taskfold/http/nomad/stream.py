"""``/v1/event/stream``: every change, from the log.

Frames and events look as Nomad's: ``{"Events":[…],"Index":n}`` for each index, ``{}`` at once and every 30 seconds.
What is behind them differs. Nomad sends what happens to be in a buffer; here a reader has a position in the log, and
gets everything after it, however old and however slow it is. So nothing is ever left out silently, and a client that
cannot be served on is told by a last frame, ``{"Error":{…}}``:

=========  =============================================================================================================
``gone``   something of the index that it asks for, or after it, was removed from the log
``ahead``  the index that it asks for was never given: it knows another log. It must begin again, with ``index=0``
``slow``   it had caught up, and then fell behind by too much; ``Position`` says with which ``from`` to go on
``unreadable``  the log cannot be read after ``Position``
=========  =============================================================================================================

``index=n`` begins with the first write of an index that is not smaller, as in Nomad; so ``index=last+1`` goes on after
the last frame without a repeat. ``from=now`` begins with the next write, ``from=<Seq>`` after a position of the log.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Final

from msgspec import UNSET, UnsetType

from taskfold.fold.allocation import AllocationState
from taskfold.http.answers import JSON_TYPE, VARY, Answer, error, not_found
from taskfold.http.context import Context
from taskfold.http.nomad.blocking import while_connected
from taskfold.http.nomad.event_texts import EventText
from taskfold.http.nomad.frames import HEARTBEAT, TOPIC, Reason, StreamError, StreamFrame, frame_text
from taskfold.http.nomad.past import Turn
from taskfold.http.nomad.topics import TopicError, Topics, parse_topics
from taskfold.http.query import Query, parse_signed_error, parse_unsigned
from taskfold.http.request import Disconnected, Request
from taskfold.live.changes import Change
from taskfold.live.cursor import Cursor
from taskfold.live.reader import Reader
from taskfold.live.waiters import wait_async
from taskfold.model.clock import CallsLater, Clock
from taskfold.model.errors import Gone, LogError
from taskfold.model.go.quoting import go_quoted
from taskfold.model.record import Record
from taskfold.nomad.fields import DEFAULT_NAMESPACE

__all__ = ["event_stream"]

HEARTBEAT_SECONDS: Final = 30
_ERROR_SECONDS: Final = 0.5
"""How long a stream stays open after its error, since many clients reconnect without a pause."""

_HEADERS: Final = ((b"Cache-Control", b"no-cache"), JSON_TYPE, VARY)
_NOW: Final = -1
"""The newest position when the stream begins."""


class _Wrong(ValueError):
    """An invalid parameter; the message is the body of the 400."""


async def event_stream(context: Context, request: Request) -> Answer | None:
    """Answer ``GET /v1/event/stream``."""
    query = request.query
    if not context.dialect.has_event_stream and not query.has("from"):
        return not_found(context.dialect)
    try:
        index = _index(query)
        topics = parse_topics(query.all("topic"))
        position = _position(query, index)
    except (_Wrong, TopicError) as problem:
        return error(400, str(problem))
    region = query.get("region")
    if region and region != context.region:
        return await context.services.forward(request, region)
    with context.streams.hold(request.client):
        start = _start(context, index, position)
        await while_connected(request, _Stream(context, request, topics, start, index).run())
    return None


def _index(query: Query) -> int:
    """Return the index parameter; 0 if there is none. Raises _Wrong, with Nomad's text."""
    index = parse_signed_error(query.get("index") or "0")
    if isinstance(index, str):
        raise _Wrong(f"Unable to parse index: {index}")
    if index < 0:
        raise _Wrong("Invalid index")
    return index


def _position(query: Query, index: int) -> int | None:
    """Return the position in ``from``: -1 is now, None means no parameter. Raises _Wrong."""
    text = query.get("from")
    if not text or text == "oldest":
        return None
    if index:
        raise _Wrong("from and index exclude each other")
    if text == "now":
        return _NOW
    position = parse_unsigned(text)
    if position is None:
        raise _Wrong(f"from must be now, oldest or a position such as 1042, not {go_quoted(text)}")
    return position


def _start(context: Context, index: int, position: int | None) -> int | bytes:
    """Return the position to start after, or the frame of an error."""
    reader = context.engine.reader
    if position is not None:
        if position > reader.seq:
            return _error_frame(reader, "ahead", f"the log ends at position {reader.seq}")
        if _NOW < position < reader.oldest_seq:
            return _error_frame(reader, "gone", f"the log begins after position {reader.oldest_seq}")
        return reader.seq if position == _NOW else position
    if 0 < index <= reader.removed_index:
        return _error_frame(reader, "gone", f"the log begins with index {reader.oldest_index}")
    if index > reader.index + 1 and not context.is_mirror:
        return _error_frame(reader, "ahead", f"the newest index is {reader.index}: begin again with index=0")
    return max(reader.position_before(index) if index else 0, reader.oldest_seq)


def _error_frame(reader: Reader, reason: Reason, message: str, position: int | UnsetType = UNSET) -> bytes:
    """Return the frame that ends a stream."""
    error = StreamError(
        Reason=reason, Message=message, Oldest=reader.oldest_index, Newest=reader.index, Position=position
    )
    return frame_text(StreamFrame(Error=error))


class _Stream:
    """One client of the stream."""

    def __init__(self, context: Context, request: Request, topics: Topics, start: int | bytes, index: int) -> None:
        self.context = context
        self.request = request
        self.topics = topics
        self.start = start
        self.index = index
        """The first index to send."""
        self.namespace = request.query.get("namespace") or DEFAULT_NAMESPACE
        self.seq = 0
        """The position up to which all events were sent."""
        self.is_live = False
        """It has caught up once."""
        self.next_heartbeat = _now(context.clock)

    async def run(self) -> None:
        """Send the stream until the client is gone, the server stops, or nothing can be sent any more."""
        self.request.status = 200
        await self.context.send(self.request, {"type": "http.response.start", "status": 200, "headers": _HEADERS})
        if isinstance(self.start, bytes):
            await self._send(HEARTBEAT + self.start)
            await asyncio.sleep(_ERROR_SECONDS)
        else:
            self.seq = self.start
            self.context.engine.reader.follow()
            try:
                await self._follow()
            except Disconnected:
                # It was idle for too long. The error may still fit into its buffers.
                await self._tell_slow()
                raise
            finally:
                self.context.engine.reader.unfollow()
        await self._end()

    async def _follow(self) -> None:
        """Send events, from the buffer of newest changes, or, further back, from the log."""
        reader = self.context.engine.reader
        while not reader.is_released:
            if _now(self.context.clock) >= self.next_heartbeat:
                await self._send(HEARTBEAT)
                self.next_heartbeat += HEARTBEAT_SECONDS
                continue
            behind = reader.seq - self.seq
            if self.is_live and behind > self.context.limits.slow_records:
                await self._send(self._slow())
                await asyncio.sleep(_ERROR_SECONDS)
                return
            changes = reader.recent(self.seq) if behind else []
            if changes is None:
                try:
                    await self._read_past()
                except (LogError, Gone) as problem:
                    await self._send(self._unreadable(problem))
                    await asyncio.sleep(_ERROR_SECONDS)
                    return
            elif changes:
                for change in changes:
                    await self._send(self._frame(change, self.context.event_texts.get))
                    self.seq = change.last_seq
                await asyncio.sleep(0)  # lets other tasks run
            else:
                self.is_live = True
                seconds = max(self.next_heartbeat - _now(self.context.clock), 0)
                await wait_async(reader, reader.newest_seq, self.seq, seconds, self.context.clock)

    async def _read_past(self) -> None:
        """Send old events from the log, for one turn. Raises LogError and Gone."""
        await self._send(b"", always=True)  # returns when earlier data was taken
        async with self.context.past.turn() as turn:
            cursor = Cursor(self.context.engine.reader, self.seq)
            try:
                await self._send_past(turn, cursor)
            finally:
                cursor.close()

    async def _send_past(self, turn: Turn, cursor: Cursor) -> None:
        """Send the events of a cursor, until it is near the end, or the turn is over."""
        reader = self.context.engine.reader
        while not reader.is_released and _now(self.context.clock) < self.next_heartbeat:
            frames = await self.context.past.run(lambda: self._past_frames(cursor))
            if not frames:
                return
            with turn.patience(partial(_drop, frames, cursor)):
                while frames:
                    frame, seq = frames.popleft()
                    await self._send(frame)
                    self.seq = seq
            await asyncio.sleep(0)  # lets other tasks run
            if turn.is_over or turn.is_wanted:
                return

    def _past_frames(self, cursor: Cursor) -> deque[tuple[bytes, int]]:
        """Return the next frames from the log, with their positions; none if the buffer has the next changes."""
        if cursor.is_near:
            return deque()
        texts = self.context.event_texts.event
        return deque((self._frame(change, texts), change.last_seq) for change in cursor.read())

    def _frame(self, change: Change, text_of: Callable[[AllocationState, Sequence[Record], int], EventText]) -> bytes:
        """Return the frame of a change; empty if no event of it matches."""
        if self.index:
            if change.index < self.index:
                return b""
            self.index = 0
        events = []
        for state, records in change.allocations if self.topics.wants_allocations else ():
            event = text_of(state, records, change.index)
            if self._wants(event):
                events.append(event.event)
        return frame_text(StreamFrame(Events=tuple(events), Index=change.index)) if events else b""

    def _wants(self, event: EventText) -> bool:
        is_of_namespace = self.namespace in {"*", event.namespace or DEFAULT_NAMESPACE}
        return is_of_namespace and self.topics.matches(TOPIC, event.key, event.filter_keys)

    def _slow(self) -> bytes:
        """Return the error frame for a slow client, with the position to continue from."""
        behind = self.context.engine.reader.seq - self.seq
        message = f"{behind} records behind: go on with from={self.seq}"
        return _error_frame(self.context.engine.reader, "slow", message, self.seq)

    def _unreadable(self, problem: LogError | Gone) -> bytes:
        """Return the error frame for a log that cannot be read."""
        reader = self.context.engine.reader
        if isinstance(problem, Gone):  # the log was compacted while it was read
            return _error_frame(reader, "gone", f"the log begins after position {problem.oldest} now")
        return _error_frame(reader, "unreadable", str(problem), self.seq)

    async def _tell_slow(self) -> None:
        try:
            async with asyncio.timeout(1):
                await self.request.send({"type": "http.response.body", "body": self._slow(), "more_body": False})
        except TimeoutError:
            pass

    async def _send(self, data: bytes, *, always: bool = False) -> None:
        if data or always:
            await self.context.send(self.request, {"type": "http.response.body", "body": data, "more_body": True})

    async def _end(self) -> None:
        await self.context.send(self.request, {"type": "http.response.body", "body": b""})


def _drop(frames: deque[tuple[bytes, int]], cursor: Cursor) -> None:
    """Drop the frames that were read and not sent."""
    frames.clear()
    cursor.forget()


def _now(clock: Clock) -> float:
    """Return a monotonic time in seconds: the engine clock's if it is a `Timer`, else the system's."""
    return clock.time_ns() / 1_000_000_000 if isinstance(clock, CallsLater) else monotonic()
