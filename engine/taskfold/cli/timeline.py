"""``taskfold timeline``: the lives of tasks side by side, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from taskfold.cli import _options as options
from taskfold.cli._guard import Notes, Unanswerable, no_match, say
from taskfold.cli._progress import Progress
from taskfold.cli._reading import Selection, the_one
from taskfold.cli._words import bytes_text, count_text
from taskfold.pictures.lanes import LanesOfOne
from taskfold.pictures.timeline import JSON_BYTES, TIMELINE_FORMATS, Timeline, TimelineFormat
from taskfold.sources.replay import At, Replay
from taskfold.sources.timeline import timeline_of

__all__ = ["timeline"]


@options.command()
@options.sources_argument
@click.option("-o", "--output", metavar="FILE", required=True, help="The file to write; - for standard output.")
@click.option(
    "--format",
    "format",
    type=click.Choice(TIMELINE_FORMATS),
    help="A page, a drawing, or a trace for Perfetto and Chrome; default: as FILE ends (.html, .svg, .json).",
)
@options.at_option
@options.alloc_option
@options.task_option
@click.option("--job", metavar="ID", help="Only allocations of this job.")
@click.option("--node", metavar="PREFIX", help="Only allocations on nodes whose ID starts with this.")
@click.option("--status", metavar="STATUS", help="Only allocations with this client status.")
@click.option(
    "--json-bytes",
    type=click.IntRange(min=0),
    default=JSON_BYTES,
    show_default=True,
    help="The room in a page for the JSON of allocations; failed ones come first.",
)
@click.option("--width", type=click.IntRange(min=320), default=1280, show_default=True, help="The width of a drawing.")
@options.skip_bad_option
def timeline(
    sources: tuple[str, ...],
    output: str,
    format: TimelineFormat | None,
    at: At | None,
    *,
    json_bytes: int,
    width: int,
    skip_bad: bool,
    **filters: Any,
) -> int:
    """Draw the lives of tasks side by side, as one HTML file that needs no network, as SVG, or as a trace.

    The page has a lane for each task, with its states, its events and the gaps in the record; it filters, sorts and
    zooms, shows the history and the JSON of an allocation, and the state of all tasks at any time.
    """
    output_format = format or Timeline.format_of(output)
    if any(Path(output).absolute() == Path(source).absolute() for source in sources if output != "-"):
        raise Unanswerable(f"{output}: is what is read, and is not overwritten")
    reading = Replay(*sources, at=at, on_note=Notes(), skip_bad=skip_bad)
    with Progress("reading", reading):
        whole = timeline_of(reading)
    part = _selected(whole, Selection(**filters))
    if not part.allocations:
        return no_match(len(whole.allocations), "allocation")
    if output_format == "html":
        text = part.to_html(json_bytes=json_bytes)
    elif output_format == "svg":
        text = part.to_svg(width=width)
    else:
        text = part.to_perfetto()
    if output == "-":
        click.echo(text, nl=False)
        return 0
    Path(output).write_text(text, encoding="utf-8")
    allocations = count_text(len(part.allocations), "allocation")
    say(f"wrote {output} ({bytes_text(len(text.encode()))}): {count_text(len(part), 'task')} of {allocations}")
    return 0


def _selected(whole: Timeline, selection: Selection) -> Timeline:
    """Return the timeline of the allocations and tasks that match. Raises Unanswerable for an ambiguous prefix."""
    one = None if selection.alloc is None else the_one((each.id for each in whole.allocations), selection.alloc)

    def is_wanted(each: LanesOfOne) -> bool:
        return (
            (selection.alloc is None or each.id == one)
            and selection.job in {None, each.job}
            and selection.status in {None, each.client_status}
            and each.node.startswith(selection.node or "")
        )

    return whole if selection == Selection() else whole.only(is_wanted, task=selection.task)
