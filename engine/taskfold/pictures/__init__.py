"""Pictures of histories: the timeline of tasks, as a page, a drawing, or a trace.

`lanes` makes lanes of records, `timeline` is the public face, and a module for each format draws: `page` (HTML, with
the assets beside it), `svg`, `perfetto`.
"""
