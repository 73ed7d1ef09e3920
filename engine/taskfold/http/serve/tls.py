"""HTTPS: the certificate of a server, its key, and the authority that the certificates of its clients are of.

A certificate that no client would accept is an error at the start, and not one for every client: the files are tried in
a handshake in memory.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final

from msgspec import Struct

from taskfold.model.errors import ServeError

__all__ = ["UNCERTIFIED", "ServedTls", "TlsFiles", "hosts_of", "tls_files"]

UNCERTIFIED: Final = "taskfold.uncertified"
"""The key of a request's scope that says that its client has sent no certificate, though clients have to."""

RENEWAL_SECONDS: Final = 60.0
"""How often a server looks whether its files were replaced."""

_logger: Final = logging.getLogger("taskfold.http")

_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_KEY: Final = b"PRIVATE KEY-----"
_MISMATCH: Final = "KEY_VALUES_MISMATCH"
_STEPS: Final = 8
"""A handshake takes fewer exchanges than this."""


class _Encrypted(Exception):
    """A key wants a passphrase."""


class TlsFiles(Struct, frozen=True):
    """The files of a server that speaks https, in PEM."""

    cert: str
    """Its certificate, and those between it and the authority's."""
    key: str
    client_ca: str = ""
    """The authorities whose certificates clients must have; empty: clients need none."""

    def server_context(self) -> ssl.SSLContext:
        """Return the context of connections. Raises ServeError for files that cannot be used.

        Clients may keep their certificate back: the guard of connections answers those (`UNCERTIFIED`).
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.load(context)
        _check_handshake(context, self.cert)
        if self.client_ca:
            context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def load(self, context: ssl.SSLContext) -> None:
        """Load the files into a context. Raises ServeError."""
        _check_text(self.cert, "certificate", _CERTIFICATE)
        _check_text(self.key, "key", _KEY)
        try:
            context.load_cert_chain(self.cert, self.key, _no_passphrase)
        except _Encrypted:
            raise ServeError(f"{self.key}: the key is encrypted: give one without a passphrase") from None
        except ssl.SSLError as error:
            if error.reason == _MISMATCH:
                problem = f"{self.key}: the key is not that of the certificate in {self.cert}"
            else:
                problem = f"{self.cert} and {self.key} cannot be used: {_reason(error)}"
            raise ServeError(problem) from None
        if self.client_ca:
            _check_text(self.client_ca, "certificate", _CERTIFICATE)
            try:
                context.load_verify_locations(cafile=self.client_ca)
            except ssl.SSLError as error:
                raise ServeError(f"{self.client_ca}: cannot be used: {_reason(error)}") from None


class ServedTls:
    """The context of a server's connections, which takes up files that were replaced."""

    def __init__(self, files: TlsFiles) -> None:
        """Read the files. Raises ServeError."""
        self._files = files
        self._stamps = self._read_stamps()
        self.context = files.server_context()

    async def keep(self) -> None:
        """Look after the files for ever; new connections get what is in them, once it can be used."""
        while True:
            await asyncio.sleep(RENEWAL_SECONDS)
            stamps = self._read_stamps()
            if stamps == self._stamps:
                continue
            self._stamps = stamps
            try:
                await asyncio.to_thread(self._files.server_context)
                self._files.load(self.context)
            except ServeError as problem:
                _logger.error("new certificates are not taken: %s", problem)  # noqa: TRY400 - its sentence says all
            else:
                _logger.info("%s was read again", self._files.cert)

    def _read_stamps(self) -> list[tuple[int, int, int] | None]:
        return [_stamp_of(file) for file in (self._files.cert, self._files.key, self._files.client_ca) if file]


def _stamp_of(file: str) -> tuple[int, int, int] | None:
    try:
        status = Path(file).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def tls_files(cert: str | None, key: str | None, client_ca: str | None) -> TlsFiles | None:
    """Return the files that three options name; None where they name none. Raises ServeError.

    >>> tls_files("server.pem", "server.key", None)
    TlsFiles(cert='server.pem', key='server.key', client_ca='')
    >>> tls_files(None, None, None) is None
    True
    """
    if bool(cert) != bool(key):
        raise ServeError("--tls-cert and --tls-key belong together: name both files")
    if client_ca and not cert:
        raise ServeError("--tls-client-ca is for https: name the server's --tls-cert and --tls-key, too")
    return TlsFiles(cert, key, client_ca or "") if cert and key else None


def hosts_of(tls: TlsFiles | None) -> tuple[str, ...] | None:
    """Return the names that `taskfold.http.App` answers to beside its own; None for any.

    A page whose name was made to point at a server has no certificate of its authority: the browser ends the handshake.
    Where clients have certificates, so has the server one that they check.
    """
    return None if tls is not None and tls.client_ca else ()


def _check_text(file: str, what: str, mark: bytes) -> None:
    """Check that a file can be read, and has what it should have. Raises ServeError."""
    try:
        text = Path(file).read_bytes()
    except OSError as error:
        raise ServeError(f"{file}: the {what} cannot be read: {error.strerror or error}") from None
    if mark not in text:
        raise ServeError(f"{file}: has no {what} in PEM, which begins with -----BEGIN")


def _no_passphrase() -> str:
    raise _Encrypted


def _check_handshake(context: ssl.SSLContext, cert: str) -> None:
    """Check that a client that trusts the certificate itself takes it, now and of a server. Raises ServeError."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        trusting.load_verify_locations(cafile=cert)
        client = trusting.wrap_bio(to_client, to_server)
        server = context.wrap_bio(to_server, to_client, server_side=True)
        for _ in range(_STEPS):
            is_client_done = _shakes(client)
            if _shakes(server) and is_client_done:
                return
    except ssl.SSLCertVerificationError as error:
        raise ServeError(f"{cert}: no client would take the certificate: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise ServeError(f"{cert}: the certificate cannot be used: {_reason(error)}") from None


def _shakes(side: ssl.SSLObject) -> bool:
    """Go on with a handshake, and return whether this side has ended it. Raises SSLError."""
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
