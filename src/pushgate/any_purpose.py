"""TLS for callers whose certificates say that they are for servers: `api.tls.client_purpose = "any"`.

Public authorities issue hardly any other certificates, and OpenSSL refuses them from clients ("unsuitable certificate
purpose"). Python's `ssl` cannot let that pass. pyOpenSSL asks back about each fault that OpenSSL finds in a chain: this
one is let pass, at the caller's own certificate only and only where that is for servers. All others count as always.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL, crypto

from pushgate.tls import ALPN, CIPHERS_OF_TLS_1_2, UNREADABLE, Failed, Files, Shaken
from pushgate.tls_layer import Layer

_CODES = SSL.X509VerificationCodes
_EE_KEY_TOO_SMALL = 66
"""X509_V_ERR_EE_KEY_TOO_SMALL, which pyOpenSSL has no name for."""
_WORDS = {
    _CODES.ERR_UNABLE_TO_GET_CRL: "unable to get certificate CRL",
    _CODES.ERR_CERT_NOT_YET_VALID: "certificate is not yet valid",
    _CODES.ERR_CERT_HAS_EXPIRED: "certificate has expired",
    _CODES.ERR_CRL_NOT_YET_VALID: "CRL is not yet valid",
    _CODES.ERR_CRL_HAS_EXPIRED: "CRL has expired",
    _CODES.ERR_DEPTH_ZERO_SELF_SIGNED_CERT: "self-signed certificate",
    _CODES.ERR_SELF_SIGNED_CERT_IN_CHAIN: "self-signed certificate in certificate chain",
    _CODES.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "unable to get local issuer certificate",
    _CODES.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE: "unable to verify the first certificate",
    _CODES.ERR_CERT_SIGNATURE_FAILURE: "certificate signature failure",
    _CODES.ERR_CERT_REVOKED: "certificate revoked",
    _CODES.ERR_CRL_SIGNATURE_FAILURE: "CRL signature failure",
    _CODES.ERR_DIFFERENT_CRL_SCOPE: "different CRL scope",
    _CODES.ERR_CERT_CHAIN_TOO_LONG: "certificate chain too long",
    _EE_KEY_TOO_SMALL: "EE certificate key too weak",
    _CODES.ERR_INVALID_CA: "invalid CA certificate",
    _CODES.ERR_INVALID_PURPOSE: "unsuitable certificate purpose",
}
"""OpenSSL's words for what it finds wrong with a certificate (X509_verify_cert_error_string)."""


class AnyPurposeTls:
    """TLS by pyOpenSSL."""

    sessions = 0
    """See `Tls.sessions`."""

    def __init__(self, files: Files) -> None:
        """Raises `OSError`."""
        self._context = SSL.Context(SSL.TLS_SERVER_METHOD)
        try:
            self._load(files)
        except SSL.Error as error:
            raise OSError(f"OpenSSL refuses a file of [api.tls] ({error}) -> see that they belong together") from error
        self._context.set_min_proto_version(SSL.TLS1_2_VERSION)
        self._context.set_cipher_list(CIPHERS_OF_TLS_1_2.encode())
        self._context.set_alpn_select_callback(_choose)
        self._context.set_session_id(b"pushgate")
        self._context.set_session_cache_mode(SSL.SESS_CACHE_OFF)  # tickets do
        self._context.set_verify(SSL.VERIFY_PEER, _may_pass)

    def _load(self, files: Files) -> None:
        for cert_file, key_file in files.certificates:
            self._context.use_certificate_chain_file(cert_file)
            self._context.use_privatekey_file(key_file)
        assert files.client_ca_file is not None
        self._context.load_verify_locations(files.client_ca_file)
        flags = crypto.X509StoreFlags.PARTIAL_CHAIN
        if files.client_crl_file is not None:
            self._context.load_verify_locations(files.client_crl_file)
            flags |= crypto.X509StoreFlags.CRL_CHECK
        store = self._context.get_cert_store()
        assert store is not None
        store.set_flags(flags)

    async def shake(self, accepted: socket.socket, guest: asyncio.Protocol) -> Shaken | Failed:
        """See `tls.Tls.shake`."""
        found = _Found()
        layer = Layer(self._context, guest, app_data=found)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: layer, accepted)
        met = await layer.met
        match met:
            case Failed() if found.error:
                return Failed(_WORDS.get(found.error, f"verify error {found.error}"), is_certificate=True)
            case Shaken():
                has_shown_one = layer.connection.get_peer_certificate() is not None
                return Shaken(is_resumed=has_shown_one and not found.was_asked)
        return met


class _Found:
    """What OpenSSL asked about the certificates of one connection. Of a session that is resumed it asks nothing."""

    __slots__ = ("error", "was_asked")

    def __init__(self) -> None:
        self.was_asked = False
        self.error = 0


def _may_pass(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
    found: _Found = connection.get_app_data()
    found.was_asked = True
    if ok or (error == _CODES.ERR_INVALID_PURPOSE and depth == 0 and _is_let_pass(certificate)):
        return True
    found.error = error
    return False


def _is_let_pass(certificate: crypto.X509) -> bool:
    """OpenSSL asks before it has looked at the signature: anybody may have written what is read here."""
    try:
        return is_for_servers(certificate.to_cryptography())
    except UNREADABLE:
        return False


def is_for_servers(certificate: x509.Certificate) -> bool:
    """Whether a TLS server could show this certificate, and sign with its key. Raises `UNREADABLE`."""
    try:
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if ExtendedKeyUsageOID.SERVER_AUTH not in uses:
            return False
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except x509.ExtensionNotFound as missing:
        return missing.oid == x509.KeyUsage.oid


def _choose(connection: SSL.Connection, offered: list[bytes]) -> Any:
    return ALPN.encode() if ALPN.encode() in offered else SSL.NO_OVERLAPPING_PROTOCOLS
