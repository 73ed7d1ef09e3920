"""The filters of the event stream: ``topic`` and ``namespace``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from taskfold.http.nomad.frames import TOPIC

__all__ = ["TopicError", "Topics", "parse_topics"]

ANYTHING: Final = "*"


class TopicError(ValueError):
    """An invalid ``topic``; the message is Nomad's."""


class Topics:
    """The filter of a stream: for each topic the keys, or anything."""

    def __init__(self, keys: dict[str, set[str]]) -> None:
        self.keys = keys
        self.wants_allocations = any(self._keys_of(TOPIC))
        """Whether any event of an allocation can match."""

    def _keys_of(self, topic: str) -> set[str]:
        return self.keys.get(ANYTHING, set()) | self.keys.get(topic, set())

    def matches(self, topic: str, key: str, filter_keys: Sequence[str]) -> bool:
        """Return whether an event matches: by anything of its topic, by its key, or by one of its filter keys.

        An empty key is no key: it matches nothing, also where an event has an empty filter key.

        >>> parse_topics(["Allocation:a"]).matches("Allocation", "x", ["a", ""])
        True
        """
        keys = self._keys_of(topic)
        return ANYTHING in keys or any(name and name in keys for name in (key, *filter_keys))


def parse_topics(values: Sequence[str]) -> Topics:
    """Return the filter of the ``topic`` parameters; without any, it matches everything.

    Raises TopicError. Source: command/agent/event_endpoint.go parseEventTopics.
    """
    keys: dict[str, set[str]] = {}
    for value in values or [ANYTHING]:
        topic, colon, key = value.partition(":")
        if ":" in key:
            msg = f"Invalid topic query: error parsing topics: Invalid key value pair for topic, topic: {value}"
            raise TopicError(msg)
        keys.setdefault(topic, set()).add(key if colon else ANYTHING)
    return Topics(keys)
