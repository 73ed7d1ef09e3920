"""Agents are asked as Nomad's own command asks them: addresses, tokens and certificates come from its variables."""

from __future__ import annotations

import asyncio
import random
import ssl
from pathlib import Path

import pytest
import trustme

from support.agents import FakeAgent, close_agents
from taskfold import AgentSettings
from taskfold.errors import SourceError, SourceUnavailable
from taskfold.recording.agents import Agents


def test_the_variables_of_nomads_command_are_read():
    settings = AgentSettings.from_environment(
        {
            "NOMAD_ADDR": "https://nomad.example:4646",
            "NOMAD_TOKEN": " secret ",
            "NOMAD_NAMESPACE": "team",
            "NOMAD_REGION": "eu",
            "NOMAD_CACERT": "ca.pem",
            "NOMAD_CAPATH": "cas",
            "NOMAD_CLIENT_CERT": "me.pem",
            "NOMAD_CLIENT_KEY": "me.key",
            "NOMAD_TLS_SERVER_NAME": "server.eu.nomad",
            "NOMAD_SKIP_VERIFY": "true",
        }
    )
    assert settings == AgentSettings(
        addresses=("https://nomad.example:4646",),
        token="secret",
        namespace="team",
        region="eu",
        ca_cert="ca.pem",
        ca_path="cas",
        client_cert="me.pem",
        client_key="me.key",
        tls_server_name="server.eu.nomad",
        skip_verify=True,
    )


def test_an_empty_variable_is_none():
    assert AgentSettings.from_environment({"NOMAD_ADDR": "", "NOMAD_NAMESPACE": ""}) == AgentSettings()


def test_addresses_that_are_named_stand_in_for_the_variable():
    settings = AgentSettings.from_environment({"NOMAD_ADDR": "http://a:1"}, "http://b:2", "unix:/run/nomad.sock")
    assert settings.addresses == ("http://b:2", "unix:/run/nomad.sock")


@pytest.mark.parametrize("text", ["maybe", "yes", "2"])
def test_what_is_neither_true_nor_false_is_refused(text: str):
    with pytest.raises(SourceError, match=f"NOMAD_SKIP_VERIFY: expected true or false, found '{text}'"):
        AgentSettings.from_environment({"NOMAD_SKIP_VERIFY": text})


def test_a_certificate_without_its_key_is_refused():
    with pytest.raises(SourceError, match="belong together"):
        AgentSettings(client_cert="me.pem")


@pytest.mark.parametrize("name", ["ca_cert", "ca_path", "client_cert"])
def test_a_certificate_that_is_not_there_is_named(tmp_path: Path, name: str):
    files = {name: str(tmp_path / "none")} | ({"client_key": str(tmp_path / "key")} if name == "client_cert" else {})
    settings = AgentSettings(addresses=("https://127.0.0.1:1",), **files)
    with pytest.raises(SourceError, match="the certificates cannot be used: No such file"):
        Agents(settings)


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path):
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(SourceError, match=r"ca\.pem: the certificates cannot be used"):
        Agents(AgentSettings(addresses=("https://127.0.0.1:1",), ca_cert=str(tmp_path / "ca.pem")))


def test_no_secret_is_in_what_is_shown():
    settings = AgentSettings(addresses=("http://user:pass@host:1",), token="secret")
    assert "pass" not in repr(settings)
    assert "secret" not in repr(settings)


# --- https ---


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    """Return the context of a server that has a certificate for a name, and wants one of its clients."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def asked(authority: trustme.CA, name: str, **settings: object) -> int:
    """Return the index that an agent with a certificate for this name tells."""

    async def story() -> int:
        agent = FakeAgent([])
        try:
            address = await agent.serve(context=server_context(authority, name))
            agents = Agents(
                AgentSettings(addresses=(address,), **settings),  # type: ignore[arg-type]  # as the tests name them
                rng=random.Random(1),
                first_pause_seconds=0.001,
            )
            try:
                return await agents.index()
            finally:
                await agents.close()
        finally:
            await close_agents()

    return asyncio.run(story())


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> dict[str, str]:
    """Give the files that a client needs."""
    own = authority.issue_cert("client.example")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    own.private_key_and_cert_chain_pem.write_to_path(tmp_path / "me.pem")
    names = {"ca_cert": "ca.pem", "client_cert": "me.pem", "client_key": "me.pem"}
    return {name: str(tmp_path / file) for name, file in names.items()}


def test_an_agent_of_a_private_authority_that_wants_a_certificate_is_asked(
    authority: trustme.CA, files: dict[str, str]
):
    assert asked(authority, "127.0.0.1", **files) == 1


def test_authorities_may_be_a_folder(authority: trustme.CA, files: dict[str, str], tmp_path: Path):
    (tmp_path / "cas").mkdir()
    authority.cert_pem.write_to_path(tmp_path / "cas" / "one.pem")
    assert asked(authority, "127.0.0.1", **files | {"ca_cert": "", "ca_path": str(tmp_path / "cas")}) == 1


def test_the_name_in_the_certificate_may_be_another(authority: trustme.CA, files: dict[str, str]):
    assert asked(authority, "server.eu.nomad", tls_server_name="server.eu.nomad", **files) == 1
    with pytest.raises(SourceUnavailable, match=r"cannot be asked: .*certificate"):
        asked(authority, "server.eu.nomad", **files)


def test_nothing_is_checked_where_that_is_asked_for(authority: trustme.CA, files: dict[str, str]):
    assert asked(authority, "elsewhere.example", skip_verify=True, **files | {"ca_cert": ""}) == 1


def test_an_unknown_authority_is_refused(authority: trustme.CA, files: dict[str, str]):
    with pytest.raises(SourceUnavailable, match="certificate verify failed"):
        asked(authority, "127.0.0.1", **files | {"ca_cert": ""})
