"""Install the clients, have them ask, and write the results and the table: `make clients`."""

from __future__ import annotations

from pathlib import Path

from tools.clients.asking import CLIENTS, ROOT, ask, install, table, write_results

PAGE = ROOT / "docs" / "serving.md"
BEGIN, END = "<!-- clients -->\n", "<!-- /clients -->\n"


def main() -> None:
    """Ask by every client."""
    folder = Path(ROOT, ".venvs", "clients")
    results = {client.name: ask(client, install(client, folder)) for client in CLIENTS}
    write_results(results)
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(before + BEGIN + table(results) + END + rest.partition(END)[2], encoding="utf-8")
    print(table(results), end="")


if __name__ == "__main__":
    main()
