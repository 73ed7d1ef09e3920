"""An agent is asked over connections that are kept, and every way in which an answer can be wrong has its sentence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from taskfold.recording.connections import AgentAnswer, ConnectionProblem, Connections

OK = b"HTTP/1.1 200 OK\r\n"


@asynccontextmanager
async def answering(*texts: bytes, ends: bool = False) -> AsyncIterator[tuple[Connections, list[bytes], list[int]]]:
    """Serve these answers, one after the other; give connections, the requests, and how many connections there were.

    With ``ends`` each connection ends after its answer.
    """
    requests: list[bytes] = []
    accepted: list[int] = []
    rest = list(texts)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(1)
        try:
            with suppress(EOFError, OSError):
                while rest:
                    requests.append(await reader.readuntil(b"\r\n\r\n"))
                    writer.write(rest.pop(0))
                    await writer.drain()
                    if ends:
                        break
                else:
                    await reader.read()
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connections = Connections(f"http://user:p%40ss@127.0.0.1:{port}/nomad/", None, most=2)
    try:
        yield connections, requests, accepted
    finally:
        await connections.close()
        server.close()


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await story()

    asyncio.run(bounded())


async def ask(connections: Connections, seconds: float = 30) -> AgentAnswer:
    return await connections.get("/v1/x?a=b", {"X-Nomad-Token": "secret"}, seconds)


def test_a_connection_is_used_again_for_every_kind_of_answer():
    async def story() -> None:
        texts = (
            OK + b"Content-Length: 5\r\nX-Nomad-Index: 7\r\n\r\nhello",
            OK + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: 1\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\n",
        )
        async with answering(*texts) as (connections, requests, accepted):
            answers = [await ask(connections) for _ in texts]
        assert [answer.body for answer in answers] == [b"hello", b"hello", b"", b""]
        assert [answer.status for answer in answers] == [200, 200, 404, 204]
        assert (answers[0].headers["x-nomad-index"], answers[2].reason) == ("7", "Not Found")
        assert len(accepted) == 1
        lines = requests[0].decode().split("\r\n")
        assert lines[0] == "GET /nomad/v1/x?a=b HTTP/1.1"
        assert {"X-Nomad-Token: secret", "Authorization: Basic dXNlcjpwQHNz"} <= set(lines)

    run(story)


def test_an_answer_without_a_length_ends_with_its_connection():
    async def story() -> None:
        async with answering(OK + b"\r\nall of it", OK + b"\r\nagain", ends=True) as (connections, _, accepted):
            assert (await ask(connections)).body == b"all of it"
            assert (await ask(connections)).body == b"again"
        assert len(accepted) == 2

    run(story)


@pytest.mark.parametrize("head", [OK + b"Connection: close\r\n", b"HTTP/1.0 200 OK\r\n"])
def test_an_agent_that_keeps_no_connection_gets_another_one(head: bytes):
    async def story() -> None:
        text = head + b"Content-Length: 2\r\n\r\nok"
        async with answering(text, text) as (connections, _, accepted):
            assert [(await ask(connections)).body for _ in range(2)] == [b"ok", b"ok"]
        assert len(accepted) == 2

    run(story)


def test_a_connection_that_ended_while_it_was_kept_is_replaced():
    async def story() -> None:
        text = OK + b"Content-Length: 2\r\n\r\nok"
        async with answering(text, text, ends=True) as (connections, _, accepted):
            assert [(await ask(connections)).body for _ in range(2)] == [b"ok", b"ok"]
        assert len(accepted) == 2

    run(story)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "cannot be asked: it ended the connection"),
        (OK, "cannot be asked: it ended the connection in the middle of its answer"),
        (OK + b"Content-Length: 9\r\n\r\nshort", "in the middle of its answer"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n9\r\nshort", "in the middle of its answer"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "cannot be asked: its answer is not of HTTP/1.1"),
        (OK + b"Content-Length: -1\r\n\r\n", "its answer is not of HTTP/1.1"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "its answer is not of HTTP/1.1"),
    ],
)
def test_an_answer_that_is_none_is_told(text: bytes, sentence: str):
    async def story() -> None:
        async with answering(text, ends=True) as (connections, _, _accepted):
            with pytest.raises(ConnectionProblem, match=sentence.replace(".", r"\.")):
                await ask(connections)

    run(story)


def test_an_agent_that_says_nothing_is_told_as_silent():
    async def story() -> None:
        async with answering(OK + b"Content-Length: 9\r\n\r\n") as (connections, _, _accepted):
            with pytest.raises(ConnectionProblem, match="it did not answer in time") as problem:
                await ask(connections, 0.05)
        assert problem.value.is_silence

    run(story)


def test_no_more_connections_are_open_than_it_bears():
    async def story() -> None:
        text = OK + b"Content-Length: 2\r\n\r\nok"
        async with answering(*[text] * 10) as (connections, _, accepted):
            answers = await asyncio.gather(*(ask(connections) for _ in range(10)))
        assert [answer.body for answer in answers] == [b"ok"] * 10
        assert len(accepted) == 2

    run(story)


@pytest.mark.parametrize("token", ["a\r\nHost: elsewhere", "a\nb", "ü", "a\0b"])
def test_a_token_that_no_header_can_have_is_refused_and_not_shown(token: str):
    async def story() -> None:
        connections = Connections("http://127.0.0.1:1", None, most=1)
        with pytest.raises(ConnectionProblem, match="no header can have") as problem:
            await connections.get("/", {"X-Nomad-Token": token}, 1)
        assert token not in str(problem.value)

    run(story)


def test_an_address_at_which_nobody_listens_is_told_in_few_words():
    async def story() -> None:
        with pytest.raises(ConnectionProblem, match=r"^cannot be asked: Connection refused$"):
            await Connections("http://127.0.0.1:1", None, most=1).get("/", {}, 30)

    run(story)
