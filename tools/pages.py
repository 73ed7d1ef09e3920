"""What ``mkdocs build`` writes into the pages of the documentation from the code itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from mkdocs.structure.files import File

from taskfold.cli._commands import COMMANDS, taskfold

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parents[1]
COMMANDS_MARK: Final = "<!-- the commands -->"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the OpenAPI document, as it is committed."""
    text = (ROOT / "schemas" / "openapi.json").read_text(encoding="utf-8")
    files.append(File.generated(config, "openapi.json", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write the help of every command where a page asks for it."""
    del page, config, files
    return markdown.replace(COMMANDS_MARK, "\n\n".join(map(_command_text, COMMANDS)))


def _command_text(name: str) -> str:
    """Return the section of a command: its help as a terminal shows it."""
    root = click.Context(taskfold, info_name="taskfold")
    command = taskfold.get_command(root, name) or click.Command(name)
    context = click.Context(command, info_name=name, parent=root, max_content_width=100, terminal_width=100)
    return f"### taskfold {name}\n\n```text\n{command.get_help(context)}\n```"
