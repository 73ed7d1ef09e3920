"""The settings of a recorder: addresses, token and certificates, as Nomad's own command reads them."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from taskfold.model.errors import SourceError

__all__ = ["AgentSettings", "is_agent"]

_UNIX: Final = "unix:"
_SCHEMES: Final = ("http", "https")
_DEFAULT_ADDRESS: Final = "http://127.0.0.1:4646"
_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"", "0", "f", "F", "FALSE", "false", "False"})
"""The texts that Go's strconv.ParseBool accepts."""


def is_agent(source: str) -> bool:
    """Return whether a source is the address of an agent, and no file.

    >>> is_agent("http://127.0.0.1:4646"), is_agent("unix:/run/nomad.sock"), is_agent("stream.ndjson"), is_agent("-")
    (True, True, False, False)
    """
    return source.startswith((_UNIX, *(f"{scheme}://" for scheme in _SCHEMES)))


class AgentSettings(Struct, frozen=True, kw_only=True):
    """Agents of one region, and what they are asked with.

    >>> AgentSettings.from_environment({"NOMAD_ADDR": "https://nomad.example:4646", "NOMAD_REGION": "eu"}).region
    'eu'
    """

    addresses: tuple[str, ...] = (_DEFAULT_ADDRESS,)
    """``http://…``, ``https://…`` or ``unix:PATH``; the next is asked where one fails."""
    token: str = ""
    token_file: str = ""
    """A file whose first line is the token; it is read again when it changes."""
    namespace: str = "*"
    region: str = ""
    ca_cert: str = ""
    """A file of certificates (PEM) to trust in place of the system's."""
    ca_path: str = ""
    """A folder of such files."""
    client_cert: str = ""
    client_key: str = ""
    tls_server_name: str = ""
    """The name that the agent's certificate has, where that is not the address."""
    skip_verify: bool = False

    def __post_init__(self) -> None:
        """Check the addresses, and what belongs together. Raises SourceError."""
        if not self.addresses:
            raise SourceError("agents", "expected at least one address, such as http://127.0.0.1:4646")
        for address in self.addresses:
            _check_address(address)
        if bool(self.client_cert) != bool(self.client_key):
            raise SourceError(
                self.client_cert or self.client_key,
                "a client certificate and its key belong together: name both (NOMAD_CLIENT_CERT, NOMAD_CLIENT_KEY)",
            )

    def __repr__(self) -> str:
        """Return the addresses; a token must not get into the lines of a log."""
        return f"<AgentSettings of {', '.join(self.names)}>"

    @property
    def names(self) -> tuple[str, ...]:
        """The addresses as they may be shown: without user and password."""
        return tuple(map(_without_user, self.addresses))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None, *addresses: str) -> AgentSettings:
        """Return the settings that the variables of Nomad's command give; the addresses in place of NOMAD_ADDR.

        NOMAD_ADDR, NOMAD_TOKEN, NOMAD_NAMESPACE, NOMAD_REGION, NOMAD_CACERT, NOMAD_CAPATH, NOMAD_CLIENT_CERT,
        NOMAD_CLIENT_KEY, NOMAD_TLS_SERVER_NAME and NOMAD_SKIP_VERIFY; an empty one counts as none. Without a namespace
        all of them are asked for. Raises SourceError. Source: api.DefaultConfig.
        """
        values = os.environ if environ is None else environ
        skip_verify = values.get("NOMAD_SKIP_VERIFY", "")
        if skip_verify not in _TRUE | _FALSE:
            raise SourceError("NOMAD_SKIP_VERIFY", f"expected true or false, found {skip_verify!r}")
        return cls(
            addresses=addresses or (values.get("NOMAD_ADDR") or _DEFAULT_ADDRESS,),
            token=values.get("NOMAD_TOKEN", "").strip(),
            namespace=values.get("NOMAD_NAMESPACE") or "*",
            region=values.get("NOMAD_REGION", ""),
            ca_cert=values.get("NOMAD_CACERT", ""),
            ca_path=values.get("NOMAD_CAPATH", ""),
            client_cert=values.get("NOMAD_CLIENT_CERT", ""),
            client_key=values.get("NOMAD_CLIENT_KEY", ""),
            tls_server_name=values.get("NOMAD_TLS_SERVER_NAME", ""),
            skip_verify=skip_verify in _TRUE,
        )

    @property
    def extensions(self) -> dict[str, str]:
        """The extensions of requests by httpx: the name that the agent's certificate has, if that is another."""
        return {"sni_hostname": self.tls_server_name} if self.tls_server_name else {}

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the context of connections by https; None where no address needs one. Raises SourceError."""
        if not any(address.startswith("https:") for address in self.addresses):
            return None
        context = ssl.create_default_context()
        try:
            if self.ca_cert or self.ca_path:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                if self.ca_cert:
                    context.load_verify_locations(cafile=self.ca_cert)
                for file in sorted(Path(self.ca_path).iterdir()) if self.ca_path else ():
                    if file.is_file():
                        context.load_verify_locations(cafile=str(file))
            if self.client_cert:
                context.load_cert_chain(self.client_cert, self.client_key)
        except (OSError, ssl.SSLError) as error:
            name = getattr(error, "filename", None) or self.ca_cert or self.ca_path or self.client_cert
            reason = error.strerror if type(error) is not ssl.SSLError and error.strerror else str(error)
            raise SourceError(str(name), f"the certificates cannot be used: {reason}") from None
        if self.skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _check_address(address: str) -> None:
    """Check an address. Raises SourceError."""
    if address.startswith(_UNIX) and len(address) > len(_UNIX):
        return
    try:
        parts = urlsplit(address)
        is_valid = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid or parts.query or parts.fragment:
        raise SourceError(
            _without_user(address),
            "is no address of an agent; expected http://HOST:PORT, https://HOST:PORT or unix:PATH",
        )


def _without_user(address: str) -> str:
    """Return an address without user and password."""
    scheme, separator, rest = address.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else address
