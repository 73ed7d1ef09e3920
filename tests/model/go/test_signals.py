"""Signals have the texts that Go has for them."""

from __future__ import annotations

import signal

from taskfold.model.go.signals import SIGNAL_TEXTS, signal_text


def test_every_signal_with_a_text_is_one_of_this_system() -> None:
    assert {name for name in SIGNAL_TEXTS if not hasattr(signal, name)} == set()


def test_a_name_that_go_has_no_text_for_stays_as_it_is() -> None:
    assert [signal_text(name) for name in ("SIGHUP", "SIGTERM", "SIGRTMIN", "")] == [
        "hangup",
        "terminated",
        "SIGRTMIN",
        "",
    ]
