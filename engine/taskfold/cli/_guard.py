"""The exit status, and errors as one sentence on standard error: never a traceback."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from taskfold.cli._completion import complete_command
from taskfold.cli._words import count_text, one_line
from taskfold.model.errors import ListenerError, Refused, TaskfoldError

__all__ = ["NO", "Face", "Notes", "Unanswerable", "no_match", "say", "write_line"]

NO: Final = 1
"""The exit status of an answer that is no."""
_BAD: Final = 2
_INTERRUPTED: Final = 130  # 128 and the number of the signal, as shells count
_OUTPUT_CLOSED: Final = 141
_TRACEBACK_VARIABLE: Final = "TASKFOLD_TRACEBACK"
_SENTENCES: Final[dict[type[Exception], str]] = {
    MemoryError: "there is not enough memory for this",
    RecursionError: "the input is nested too deeply",
    UnicodeError: "the input is not UTF-8",
}


class Unanswerable(Refused):
    """Options that contradict each other, or a question with several answers."""


def say(sentence: str) -> None:
    """Write one line to standard error."""
    with suppress(OSError):
        click.echo(f"taskfold: {one_line(sentence)}", err=True)


def write_line(line: bytes) -> None:
    """Write the bytes of a line to standard output, in any encoding of the terminal."""
    sys.stdout.buffer.write(line + b"\n")


def no_match(total: int, noun: str) -> int:
    """Report that nothing matched, and return the exit status."""
    say(f"nothing matched: none of {count_text(total, noun)}" if total else f"nothing matched: no {noun}")
    return NO


class Notes:
    """A callable that writes each note to standard error once."""

    def __init__(self) -> None:
        self._notes: set[str] = set()

    def __call__(self, note: str) -> None:
        """Write a note, unless it was written before."""
        if note not in self._notes:
            self._notes.add(note)
            say(f"note: {note}")


class Face(click.Group):
    """A group of commands whose return values are exit statuses, and whose failures are one sentence."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **_: Any) -> NoReturn:  # type: ignore[override]  # it never returns
        """Run the command that the arguments name, and exit."""
        arguments = list(sys.argv[1:] if args is None else args)
        if sys.stdout is None:
            # It was closed before the start.
            sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open until the process ends
        sys.exit(_guarded(lambda: self._run(arguments, prog_name or "taskfold")))

    def _run(self, args: list[str], prog_name: str) -> int:
        completed = complete_command(self)
        if completed is not None:
            return completed
        with suppress(AttributeError, ValueError):
            # Characters that a terminal cannot show are escaped: no text of a log may end the command.
            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        if not args:
            click.echo(self.get_help(click.Context(self, info_name=prog_name)))
            say("a command is missing")
            return _BAD
        with self.make_context(prog_name, args) as context:
            status = self.invoke(context)
        sys.stdout.flush()
        return int(status or 0)


class _CtrlC:
    """Raises KeyboardInterrupt at the end if a library swallowed the one of Ctrl-C."""

    def __init__(self) -> None:
        self._is_pressed = False

    def __enter__(self) -> None:
        # A command with its own handler installs that later.
        self._is_ours = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self._is_ours:
            signal.signal(signal.SIGINT, self._press)

    def _press(self, *_: object) -> None:
        self._is_pressed = True
        raise KeyboardInterrupt

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._is_pressed and kind is None:
            raise KeyboardInterrupt


def _guarded(run: Callable[[], int]) -> int:
    """Return the exit status; report an error in one sentence."""
    try:
        with _CtrlC():
            return _without_group(run)
    except click.exceptions.Exit as done:
        return done.exit_code
    except BrokenPipeError:
        _close_output()
        return _OUTPUT_CLOSED
    except (KeyboardInterrupt, click.Abort):
        say("interrupted")
        return _INTERRUPTED
    except Exception as error:  # the promise is: never a traceback
        if os.environ.get(_TRACEBACK_VARIABLE):
            raise
        if isinstance(error, OSError):
            _close_output()
        say(_sentence(error))
        return _BAD


def _without_group(run: Callable[[], int]) -> int:
    """Run; raise the error of a listener (a closed output, say) without its group."""
    try:
        return run()
    except ListenerError as error:
        raise error.exceptions[0] from None


def _sentence(error: Exception) -> str:
    """Return the sentence of an error for the user of the command."""
    if isinstance(error, click.ClickException):
        message = error.format_message().rstrip(".")
        return message[:1].lower() + message[1:]
    if isinstance(error, TaskfoldError):
        return str(error)
    if isinstance(error, OSError):
        what = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "reading or writing failed"
        return f"{what}: {error.strerror or error}"
    for kind, sentence in _SENTENCES.items():
        if isinstance(error, kind):
            return sentence
    name = type(error).__name__
    return f"this is a bug of taskfold ({name}: {error}); please report it, with what {_TRACEBACK_VARIABLE}=1 shows"


def _close_output() -> None:
    """Discard unwritten output, so that the interpreter does not try again while it exits."""
    with suppress(Exception):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
