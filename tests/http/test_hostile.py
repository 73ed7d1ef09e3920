"""Hostile paths, bodies and numbers: each is refused by name, and none of them gets into a header or a defect."""

from __future__ import annotations

import os
import re
import stat

import httpx
import pytest

from support.acting import ALLOC, app_with
from support.asgi import Reply, ask
from support.servers import connected, served, until
from taskfold import DIALECTS, Engine
from taskfold.errors import ServeError
from taskfold.http.app import App
from taskfold.http.routes import ROUTES
from taskfold.http.routing import Router
from taskfold.http.serve.server import Server, running

VISIBLE = re.compile(rb"[\x21-\x7e]+")
DEFECT = "a defect of its own"


def location(path: bytes, query: bytes = b"") -> bytes | None:
    """Return where a raw path is redirected to, as an ASGI server would have it decoded."""
    from urllib.parse import unquote

    router = Router(ROUTES.values(), DIALECTS["1.1.2"])
    answer = router.redirect(unquote(path.decode("latin-1")), path, query, "GET")
    return None if answer is None else dict(answer.headers)[b"Location"]


@pytest.mark.parametrize(
    ("path", "query", "there"),
    [
        (b"///evil.com/", b"", b"/evil.com/"),
        (b"//evil.com", b"", b"/evil.com"),
        (b"/////", b"", b"/"),
        (b"/.//evil.com", b"", b"/evil.com"),
        (b"/v1/..//evil.com/", b"", b"/evil.com/"),
        (b"//%5Cevil.com/", b"", b"/%5Cevil.com/"),
        (b"/%2F/evil.com", b"", b"/evil.com"),
        (b"//a%0d%0aSet-Cookie:%20x=1", b"", b"/a%0D%0ASet-Cookie:%20x=1"),
        (b"//a%00%7f%ff", b"", b"/a%00%7F%FF"),
        (b"//%3Fx=1%23y", b"", b"/%3Fx=1%23y"),
        (b"//%22%3E%3Cscript%3E", b"", b"/%22%3E%3Cscript%3E"),
        (b"//a%C3%A9b!'()*", b"", b"/a%C3%A9b%21%27%28%29%2A"),
        (b"//v1/allocations", b"a=%2F&b=c", b"/v1/allocations?a=%2F&b=c"),
        (b"//v1/allocations", b"a=\xe9\r\nx", b"/v1/allocations?a=%E9%0D%0Ax"),
        (b"/v1/allocation", b"", b"/v1/allocation/"),
        (b"/v1/./allocations/../regions", b"", b"/v1/regions"),
    ],
)
def test_a_redirect_stays_on_this_server_and_is_escaped_as_go_does(path: bytes, query: bytes, there: bytes) -> None:
    assert location(path, query) == there


def test_no_redirect_names_another_server_or_holds_a_byte_that_was_not_escaped() -> None:
    parts = [b"/", b"//", b"%2F", b"\\", b"%5C", b".", b"..", b"evil.com", b"@", b":", b"%0d%0a", b"%09", b"?", b"%ff"]
    for first in parts:
        for second in parts:
            for third in parts:
                there = location(b"/" + first + second + third)
                if there is not None:
                    assert VISIBLE.fullmatch(there), there
                    assert there.startswith(b"/"), there
                    assert not there.startswith((b"//", b"/\\")), there


def test_no_header_of_an_answer_holds_what_a_request_says() -> None:
    app = app_with("main")
    evil = "%0d%0aX-Evil:%20yes"
    for target in (
        f"//{evil}",
        f"/v1/allocation/{evil}",
        f"/v1/allocation/{ALLOC}/history?next_token={evil}&task={evil}",
        f"/v1/job/{evil}/allocations",
        f"/v1/allocations?region={evil}&prefix={evil}&index={evil}",
        f"/v1/event/stream?topic={evil}:a:b&index={evil}",
        f"/v1/client/allocation/{evil}/restart",
        f"/v1/agent/health?type={evil}",
        f"/{evil}",
    ):
        for method in ("GET", "PUT", "POST", "OPTIONS"):
            for name, value in ask(app, f"{method} {target}").headers:
                assert "\r" not in name + value
                assert "\n" not in name + value


def test_a_target_that_begins_with_no_slash_is_refused() -> None:
    """With a peer's address before it, `@` would make another server of it."""
    app = app_with("main")

    assert ask(app, "GET %2Fv1/allocation/@evil.example/?region=eu").status == 400


# --- bodies and numbers ---

DEEP = b'{"a":' * 2_000 + b"1" + b"}" * 2_000
DIGITS = b"9" * 5_000
VALUES = {
    "deep": DEEP,
    "deep list": b"[" * 2_000 + b"]" * 2_000,
    "deeper than Go": b"[" * 12_000,
    "digits": DIGITS,
    "fraction": b"0." + DIGITS,
    "1e400": b"1e400",
    "-1e400": b"-1e400",
    "surrogate": b'"\\ud800"',
    "no UTF-8": b'"\xff"',
    "NaN": b"NaN",
    "more": b"{} {}",
}
PLACES = {
    "all": b"%b",
    "after": b"{} %b",
    "Alloc": b'{"Alloc":%b,"Task":"main","Event":{"Type":"Received"},"Input":{"Type":"Started"}}',
    "ID": b'{"Alloc":"%s","Task":"main","ID":%%b,"Event":{"Type":"Received"},"Input":{"Type":"Started"}}'
    % ALLOC.encode(),
    "Time": b'{"Alloc":"%s","Task":"main","Time":%%b,"Event":{"Type":"Received"}}' % ALLOC.encode(),
    "ExpectedVersion": b'{"Alloc":"%s","ExpectedVersion":%%b,"Event":{"Type":"Updated"}}' % ALLOC.encode(),
    "Event": b'{"Alloc":"%s","Task":"main","Event":{"Type":"Terminated","ExitCode":%%b}}' % ALLOC.encode(),
    "Input": b'{"Alloc":"%s","Task":"main","Input":{"Type":"Exited","ExitCode":%%b}}' % ALLOC.encode(),
    "TaskName": b'{"TaskName":%b,"Task":%b,"Signal":%b}',
}
ENTRANCES = (
    "POST /v1/allocations/events",
    "POST /v1/allocations/inputs",
    f"PUT /v1/client/allocation/{ALLOC}/restart",
    f"PUT /v1/client/allocation/{ALLOC}/signal",
    f"PUT /v1/allocation/{ALLOC}/stop",
    "PUT /v1/jobs",
)


def posted(entrance: str, body: bytes) -> tuple[App, Reply]:
    app = app_with("main")
    return app, ask(app, entrance, {"Content-Type": "application/json"}, body)


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("value", VALUES)
def test_no_body_is_a_defect_and_everything_can_be_read_afterwards(entrance: str, value: str) -> None:
    for form in PLACES.values():
        app, reply = posted(entrance, form.replace(b"%b", VALUES[value]))
        assert DEFECT not in reply.text, form[:60]
        for target in (f"/v1/allocation/{ALLOC}", "/v1/allocations", f"/v1/allocation/{ALLOC}/history"):
            assert ask(app, f"GET {target}").status == 200


@pytest.mark.parametrize("action", ["restart", "signal"])
@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{} and more", "trailing characters"),
        (b"{}{}", "trailing characters"),
        (DEEP, "nested in more than 128 levels"),
        (VALUES["deep list"], "nested in more than 128 levels"),
        (b'{"x":%b}' % VALUES["deep list"], "nested in more than 128 levels"),
        (b'{"Task":"\\ud800","TaskName":"\\ud800"}', "surrogate|truncated|malformed"),
        (b'{"Task":"\xff","TaskName":"\xff"}', "utf-8"),
    ],
)
def test_a_body_that_says_more_than_one_thing_is_a_400_that_says_so(action: str, body: bytes, why: str) -> None:
    app, reply = posted(f"PUT /v1/client/allocation/{ALLOC}/{action}", body)

    assert reply.status == 400
    assert re.search(why, reply.text)
    assert app.engine.index == app_with("main").engine.index


@pytest.mark.parametrize("name", ["events", "inputs"])
@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        ("Time", "digits", "out of range"),
        ("Time", "1e400", "out of range"),
        ("ExpectedVersion", "digits", "out of range"),
        ("all", "more", "trailing|required"),
        ("all", "deep", "unknown field"),
    ],
)
def test_a_line_that_cannot_be_read_is_a_400_that_names_it(name: str, place: str, value: str, why: str) -> None:
    _, reply = posted(f"POST /v1/allocations/{name}", PLACES[place].replace(b"%b", VALUES[value]))

    assert (reply.status, '"Line":1' in reply.text) == (400, True)
    assert re.search(why, reply.text)


def test_a_line_that_is_nested_too_deeply_says_so() -> None:
    deep = b"[" * 12_000 + b"]" * 12_000

    _, reply = posted("POST /v1/allocations/events", b'{"Alloc":"a","Event":{"Type":"Placed","Body":{"x":%b}}}' % deep)
    assert (reply.status, "nested" in reply.text) == (400, True)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (f"/v1/allocation/{ALLOC}?index={'9' * 5_000}", "Invalid index"),
        (f"/v1/allocation/{ALLOC}?index=1e400", "Invalid index"),
        (f"/v1/allocation/{ALLOC}?index=1&wait={'9' * 5_000}s", "Invalid wait time"),
        (f"/v1/allocation/{ALLOC}?index=1&wait=1e400s", "Invalid wait time"),
        (f"/v1/allocation/{ALLOC}/history?per_page={'9' * 5_000}", "Expect a number"),
        (f"/v1/allocation/{ALLOC}/history?next_token=1e400", "Expect a version"),
        (f"/v1/event/stream?index={'9' * 5_000}", "Unable to parse index"),
        (f"/v1/event/stream?from={'9' * 5_000}", "from must be"),
    ],
)
def test_a_number_that_is_none_is_named(target: str, why: str) -> None:
    reply = ask(app_with("main"), f"GET {target}")

    assert (reply.status, why in reply.text) == (400, True)


@pytest.mark.parametrize("length", ["9" * 5_000, "99999999999999999999"])
def test_a_length_that_is_too_long_to_be_a_number_is_too_long(length: str) -> None:
    reply = ask(app_with("main"), "POST /v1/allocations/events", {"Content-Length": length}, b"{}")

    assert reply.status == 413


def test_a_weight_that_is_no_number_is_none() -> None:
    for weight in ("9" * 5_000, "1e400", "nan", "-1", ""):
        reply = ask(app_with("main"), "GET /v1/regions", {"Accept-Encoding": f"gzip;q={weight}"})
        assert reply.status == 200


def test_bytes_that_are_no_text_are_refused_on_the_wire() -> None:
    with running(app_with("main")) as server, connected(server) as opened:
        opened.sendall(b"GET /v1/\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert opened.recv(65_536).startswith(b"HTTP/1.1 400 ")


# --- a socket of the file system ---


def through(path: os.PathLike[str]) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://taskfold")


def test_a_socket_of_the_file_system_is_its_owners_alone_and_gone_at_the_end(tmp_path) -> None:
    path = tmp_path / "taskfold.sock"
    with running(App(Engine(dialect="1.1.2")), host=f"unix:{path}") as server, through(path) as client:
        assert server.url == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert client.get("/v1/regions").json() == ["global"]
        assert (
            client.post("/v1/allocations/events", content=b'{"Alloc":"a","Event":{"Type":"Placed"}}').status_code == 200
        )
        refused = client.post("/v1/allocations/events", content=b"{}", headers={"Sec-Fetch-Site": "cross-site"})
        assert refused.status_code == 403, "also of what comes through a proxy"
    assert not path.exists()


def test_a_socket_that_a_killed_server_left_is_replaced_and_one_in_use_is_not(tmp_path) -> None:
    path = tmp_path / "taskfold.sock"
    with served("--bind", f"unix:{path}") as (process, url):
        assert url == f"unix:{path}"
        with pytest.raises(ServeError, match="Address already in use"):
            Server(App(Engine()), host=f"unix:{path}")
        process.kill()
        process.wait()
    assert path.is_socket()
    with served("--bind", f"unix:{path}") as (process, _), through(path) as client:
        assert client.get("/v1/regions").status_code == 200
        process.terminate()
        assert process.wait(20) == 0
    assert not path.exists()


def test_what_is_no_socket_is_left_alone(tmp_path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")

    for name in (path, tmp_path / "none" / "socket", tmp_path / ("x" * 200)):
        with pytest.raises(ServeError, match=f"cannot listen at unix:{name}: "):
            Server(App(Engine()), host=f"unix:{name}")
    assert path.read_text() == "data"


def test_a_socket_that_another_server_put_in_its_place_stays(tmp_path) -> None:
    path = tmp_path / "taskfold.sock"
    first = Server(App(Engine()), host=f"unix:{path}")
    path.unlink()
    second = Server(App(Engine()), host=f"unix:{path}")
    first.close()

    assert path.is_socket()
    second.close()
    until(lambda: not path.exists())
