"""Who asks: pages of other sites write nothing and read nothing, in whatever way a browser asks for them."""

from __future__ import annotations

import json

import pytest

from support.acting import ALLOC, app_with
from support.asgi import ask
from support.browsers import ATTACKER, OWN, OWN_PAGE, PAGES, REBOUND, Page
from taskfold.http.app import App
from taskfold.http.routes import ROUTES
from taskfold.http.serve.strangers import refused_host

EVENT = json.dumps({"Alloc": ALLOC, "Task": "main", "Event": {"Type": "Signaling"}}).encode()
INPUT = json.dumps({"Alloc": ALLOC, "Task": "main", "Input": {"Type": "Exited", "ExitCode": 1}}).encode()
BODIES = {"events": EVENT, "inputs": INPUT, "client_allocation": b"{}", "stop": b""}
ACTIONS = {"client_allocation": "restart"}
WRITES = [
    (f"{method} {route.path.format(id=ALLOC, action='restart')}", BODIES.get(route.name, b"{}"))
    for route in ROUTES.values()
    for method in route.methods
    if route.writes(method) and method != "GET"
]
RESTART = f"/v1/client/allocation/{ALLOC}/restart"
SIMPLE = ("text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
"""What a page may send to any server, which is not asked first."""


def unchanged(app: App, request: str, headers: dict[str, str], body: bytes = b"") -> int:
    """Return the status of the answer to a request that must not change anything."""
    before = app.engine.index
    reply = ask(app, request, headers, body)
    assert app.engine.index == before, f"{request} was done: {reply.status} {reply.text}"
    return reply.status


def test_the_writes_that_are_tried_are_all_there_are() -> None:
    tried = {request.partition("?")[0].replace(ALLOC, "{id}").replace("restart", "{action}") for request, _ in WRITES}

    assert tried == {
        *(f"POST /v1/allocations/{name}" for name in ("events", "inputs")),
        *(f"{method} /v1/allocation/{{id}}/stop" for method in ("PUT", "POST")),
        *(f"{method} /v1/client/allocation/{{id}}/{{action}}" for method in ("PUT", "POST")),
        *(f"{method} /v1/jobs" for method in ("PUT", "POST")),
    }


@pytest.mark.parametrize("token", [None, "s3cret"], ids=["open", "token"])
@pytest.mark.parametrize("page", PAGES.values(), ids=list(PAGES))
def test_a_page_of_another_site_writes_nothing(page: Page, token: str | None) -> None:
    app = app_with("main", token=token)
    # A page cannot send a token; a proxy that adds one could make it do so.
    given = {} if token is None else {"X-Nomad-Token": token}

    for request, body in WRITES:
        for kind in SIMPLE:
            assert unchanged(app, request, page.fetch(kind) | given, body) == 403
            assert unchanged(app, request, page.form(kind) | given, body) == 403
        assert unchanged(app, request, page.fetch(None) | given, body) == 403
        assert unchanged(app, request, page.fetch("application/json") | given, body) == 403
    assert unchanged(app, f"GET {RESTART}", page.image() | given) == 403


@pytest.mark.parametrize(
    "request_and_body", [("GET /v1/allocations", b""), (f"GET /v1/allocation/{ALLOC}", b""), *WRITES]
)
def test_a_page_whose_name_was_made_to_point_here_reads_and_writes_nothing(request_and_body: tuple[str, bytes]) -> None:
    app = app_with("main")
    ask(app, f"GET /v1/allocation/{ALLOC}")  # so that it is kept as text
    request, body = request_and_body

    assert unchanged(app, request, REBOUND.fetch("application/json"), body) == 403
    assert unchanged(app, "GET /v1/agent/health", REBOUND.fetch(None)) == 403
    refused = ask(app, "GET /v1/event/stream", REBOUND.fetch(None))
    assert (refused.status, "attacker.example" in refused.text) == (403, True)


def test_no_page_is_told_that_it_may() -> None:
    app = app_with("main")
    asked = {**PAGES["another site"].fetch(None), "Access-Control-Request-Method": "PUT"}

    for request, _ in WRITES:
        reply = ask(app, f"OPTIONS {request.partition(' ')[2]}", asked)
        assert reply.status == 405
        assert not any(name.lower().startswith("access-control") for name, _ in reply.headers)


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        *[(name, True) for name in ("localhost", "LOCALHOST:1", "127.0.0.1:4646", "127.9.9.9", "[::1]:4646", "[::1]")],
        *[(name, True) for name in ("192.168.1.5", "192.168.1.5:80", "tasks.example:443")],
        *[(name, False) for name in ("attacker.example", "localhost.attacker.example", "127.0.0.1.attacker.example")],
        *[(name, False) for name in ("", "0.0.0.0", "192.168.1.6", "[::]", "localhost@attacker.example", "2130706433")],  # noqa: S104 - it is refused
    ],
)
def test_a_name_is_of_loopback_or_of_the_address_or_named(host: str, *, is_own: bool) -> None:
    scope = {"headers": [(b"host", host.encode())], "server": ("192.168.1.5", 4646)}

    assert (refused_host(scope, {"tasks.example"}) is None) == is_own
    assert refused_host(scope | {"server": ("/run/taskfold.sock", None)}, ()) is None, "a socket of files has no names"


def test_a_second_host_does_not_help() -> None:
    scope = {"headers": [(b"host", b"localhost"), (b"host", b"attacker.example")], "server": None}

    assert refused_host(scope, ()) is not None


def test_with_a_token_any_name_will_do() -> None:
    app = app_with("main", token="s3cret")

    assert ask(app, "GET /v1/allocations", {"Host": "tasks.example", "X-Nomad-Token": "s3cret"}).status == 200


PROGRAMS = {
    "curl -d": {"Host": OWN, "User-Agent": "curl/7.88.1", "Content-Type": "application/x-www-form-urlencoded"},
    "python-nomad": {"Host": OWN, "User-Agent": "python-requests/2.32.5", "Content-Type": "application/json"},
    "Go": {"Host": "localhost:4646", "User-Agent": "Go-http-client/1.1", "Accept-Encoding": "gzip"},
    "no header at all": {},
}


@pytest.mark.parametrize("headers", PROGRAMS.values(), ids=list(PROGRAMS))
def test_programs_use_the_endpoints_of_nomad_as_ever(headers: dict[str, str]) -> None:
    for request, status in (
        (f"GET {RESTART}", 200),
        (f"PUT {RESTART}", 200),
        (f"POST /v1/allocation/{ALLOC}/stop", 200),
    ):
        assert ask(app_with("main"), request, headers, b"").status == status


def test_a_page_of_the_server_itself_may_write_but_not_by_a_get() -> None:
    app = app_with("main")

    assert unchanged(app, f"GET {RESTART}", OWN_PAGE.image()) == 403
    typed = {"Host": OWN, "User-Agent": OWN_PAGE.headers["User-Agent"], "Sec-Fetch-Site": "none"}
    assert unchanged(app, f"GET {RESTART}", typed) == 403, "an address that is typed, or guessed while it is typed"
    assert ask(app, "POST /v1/allocations/events", OWN_PAGE.fetch("application/json"), EVENT).status == 200


@pytest.mark.parametrize(
    "kind", ["application/json", "application/x-ndjson; charset=utf-8", "Application/JSONL", "application/nomad+json"]
)
def test_our_own_endpoints_take_json(kind: str) -> None:
    assert ask(app_with("main"), "POST /v1/allocations/events", {"Content-Type": kind}, EVENT).status == 200


@pytest.mark.parametrize("kind", [*SIMPLE, "json", "application/xml", "text/json"])
@pytest.mark.parametrize(("name", "body"), [("events", EVENT), ("inputs", INPUT)])
def test_our_own_endpoints_take_nothing_that_is_called_otherwise(kind: str, name: str, body: bytes) -> None:
    app = app_with("main")
    reply = ask(app, f"POST /v1/allocations/{name}", {"Content-Type": kind}, body)

    assert (reply.status, app.engine.index) == (415, app_with("main").engine.index)
    assert "application/x-ndjson" in reply.text
    assert kind in reply.text


def test_a_body_without_a_type_is_taken_from_programs_alone() -> None:
    app = app_with("main")
    browser = {"User-Agent": OWN_PAGE.headers["User-Agent"]}

    assert unchanged(app, "POST /v1/allocations/events", browser, EVENT) == 415
    assert ask(app, "POST /v1/allocations/events", {}, EVENT).status == 200


def test_what_is_shown_of_a_header_is_escaped_and_short() -> None:
    reply = ask(app_with("main"), "GET /v1/allocations", {"Host": "<script>\x07" + "x" * 5_000})

    assert reply.status == 403
    assert len(reply.text) < 300
    assert "\x07" not in reply.text
    assert reply.header("Content-Type") == "text/plain; charset=utf-8"


def test_an_origin_of_this_server_is_compared_with_its_port() -> None:
    app = app_with("main")
    headers = {"Host": OWN, "Content-Type": "application/json"}

    assert unchanged(app, "POST /v1/allocations/events", headers | {"Origin": ATTACKER}, EVENT) == 403
    assert unchanged(app, "POST /v1/allocations/events", headers | {"Origin": "http://127.0.0.1"}, EVENT) == 403
    assert unchanged(app, "POST /v1/allocations/events", {"Origin": "//"}, EVENT) == 403
    assert ask(app, "POST /v1/allocations/events", headers | {"Origin": f"http://{OWN}"}, EVENT).status == 200
