"""Requests as browsers make them for a page: the headers that Chromium 150 sent, and what others leave out."""

from __future__ import annotations

from dataclasses import dataclass, field

AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36"
OWN = "127.0.0.1:4646"
ATTACKER = "http://attacker.example:8080"
NEIGHBOUR = "http://127.0.0.1:8080"
"""A page of another server of the same machine: of the same site, as browsers have it, and not of the same origin."""

_ALL = {"User-Agent": AGENT, "Accept-Encoding": "gzip, deflate, br, zstd", "Accept-Language": "en-US,en;q=0.9"}
_HINTS = {"sec-ch-ua": '"Not;A=Brand";v="8", "Chromium";v="150"', "sec-ch-ua-mobile": "?0"}


@dataclass
class Page:
    """Makes requests for a page of an origin, to a server that is called by a name."""

    origin: str
    site: str = "cross-site"
    host: str = OWN
    lacks: tuple[str, ...] = ()
    """Headers that this browser does not send."""
    headers: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.headers = {"Host": self.host, **_ALL, **_HINTS, "Referer": f"{self.origin}/", "Sec-Fetch-Site": self.site}

    def _sent(self, **more: str) -> dict[str, str]:
        named = {name.replace("_", "-"): value for name, value in more.items()}
        return {name: value for name, value in (self.headers | named).items() if name not in self.lacks}

    def fetch(self, kind: str | None) -> dict[str, str]:
        """Return the headers of a POST by fetch with ``mode: no-cors``, by a beacon or with a Blob that has no type."""
        typed = {} if kind is None else {"Content_Type": kind}
        return self._sent(Origin=self.origin, Sec_Fetch_Mode="no-cors", Sec_Fetch_Dest="empty", Accept="*/*", **typed)

    def form(self, kind: str) -> dict[str, str]:
        """Return the headers of a form that is sent."""
        return self._sent(
            Origin=self.origin,
            Sec_Fetch_Mode="navigate",
            Sec_Fetch_Dest="iframe",
            Content_Type=kind,
            Upgrade_Insecure_Requests="1",
        )

    def image(self) -> dict[str, str]:
        """Return the headers of an image that is loaded."""
        return self._sent(Sec_Fetch_Mode="no-cors", Sec_Fetch_Dest="image", Accept="image/avif,image/*,*/*;q=0.8")


FETCH_HEADERS = ("Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest", "sec-ch-ua", "sec-ch-ua-mobile")
PAGES = {
    "another site": Page(ATTACKER),
    "another port": Page(NEIGHBOUR, "same-site"),
    "another port, by name": Page("http://localhost:8080", "cross-site"),
    "a browser without Sec-Fetch": Page(ATTACKER, lacks=FETCH_HEADERS),
    "a browser that names no origin": Page(ATTACKER, lacks=(*FETCH_HEADERS, "Origin")),
    "a page that hides itself": Page(ATTACKER, lacks=("Referer",)),
    "a sandboxed frame": Page("null", lacks=("Referer", *FETCH_HEADERS)),
}
"""Pages that are none of the server's own."""

REBOUND = Page("http://attacker.example:4646", host="attacker.example:4646", lacks=(*FETCH_HEADERS, "Origin"))
"""A page whose name was made to point at the server: to the browser everything is of one origin."""

OWN_PAGE = Page(f"http://{OWN}", "same-origin")
