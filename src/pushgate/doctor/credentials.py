"""Keys and certificates of apps as they stand on disk: do they fit the rest of the app's table?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import assert_never

from cryptography import x509
from cryptography.x509.oid import NameOID

from pushgate.config import AppSettings
from pushgate.doctor import certificates
from pushgate.doctor.finding import Check, Finding, ok, said, warning, wrong
from pushgate.errors import CredentialError
from pushgate.provider import apns_settings, fcm_settings
from pushgate.provider.key_files import read_service_account, read_signing_key

SANDBOX = x509.ObjectIdentifier("1.2.840.113635.100.6.3.1")
PRODUCTION = x509.ObjectIdentifier("1.2.840.113635.100.6.3.2")
TOPICS = x509.ObjectIdentifier("1.2.840.113635.100.6.3.6")
"""Apple's extensions of push certificates: for which APNs, and for which topics besides the one in the subject."""

_KEY_FILE = re.compile(r"AuthKey_([A-Z0-9]{10})\.p8")
_UTF8_STRING = 0x0C


def look(app_id: str, settings: AppSettings, *, now: float) -> Iterator[Finding]:
    """What the files of an app say. `now` in unix seconds."""
    try:
        match settings:
            case apns_settings.Settings():
                yield from _apns(app_id, settings, now=now)
            case fcm_settings.Settings():
                yield _fcm(app_id, settings)
            case _:
                assert_never(settings)
    except CredentialError as error:
        fault, _, mend = str(error).partition(" -> ")
        yield wrong(Check.CREDENTIALS, app_id, fault, next_step=mend or "write the file anew")


def _apns(app_id: str, settings: apns_settings.Settings, *, now: float) -> Iterator[Finding]:
    if settings.key_file is not None:
        read_signing_key(settings.key_file)
        yield _signing_key(app_id, settings.key_file.name, settings.key_id)
        return
    shown = apns_settings.client_certificate(settings)
    assert shown is not None  # there is a key or a certificate: the settings have seen to it
    own, *above = x509.load_pem_x509_certificates(shown.chain_pem)
    yield certificates.life(Check.CERTIFICATE, app_id, own, now=now, ended="APNs refuses it, nothing is sent")
    if above:
        whole = certificates.chain(app_id, [own, *above], known=lambda _: True)
        if whole.next_step:
            yield whole
    yield topic(app_id, own, settings.bundle_id)
    if told := environment(app_id, own, settings.environment):
        yield told


def _signing_key(app_id: str, file_name: str, key_id: str) -> Finding:
    named = _KEY_FILE.fullmatch(file_name)
    if named and named[1] != key_id:
        seen = f"the file is called {file_name}, but key_id is {key_id}"
        mend = "Apple writes a key's id into the name of its file: correct key_id, or name the other file"
        return warning(Check.CREDENTIALS, app_id, seen, next_step=mend)
    return ok(Check.CREDENTIALS, app_id, f"a P-256 key in {file_name}, key id {key_id}")


def topic(app_id: str, certificate: x509.Certificate, bundle_id: str) -> Finding:
    """Whether a push certificate is for this app: its subject's user id, or Apple's list of topics, says so."""
    user_ids = [str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.USER_ID)]
    listed = _extension(certificate, TOPICS)
    entry = bytes([_UTF8_STRING, len(bundle_id)]) + bundle_id.encode() if len(bundle_id) < 128 else bundle_id.encode()
    if bundle_id in user_ids or (listed is not None and entry in listed):
        return ok(Check.TOPIC, app_id, f"the certificate is for {bundle_id}, and its key belongs to it")
    if not user_ids and listed is None:
        seen = "the certificate is none for push: its subject has no user id"
        mend = "have an Apple Push Services certificate issued for this app"
    else:
        seen = f"the certificate is for {said(', '.join(user_ids))}, but bundle_id is {bundle_id}"
        mend = "correct bundle_id, or name the certificate of this app"
    return wrong(Check.TOPIC, app_id, seen, next_step=mend)


def environment(app_id: str, certificate: x509.Certificate, wanted: str) -> Finding | None:
    """What is wrong with the environment that a push certificate names; None where it names none or the right one."""
    oids = {"production": PRODUCTION, "sandbox": SANDBOX}
    named = [each for each, oid in oids.items() if _extension(certificate, oid) is not None]
    if not named or wanted in named:
        return None
    seen = f"the certificate is for {' and '.join(named)}, but environment is {wanted}"
    mend = f'set environment = "{named[0]}", or name a certificate for {wanted}'
    return wrong(Check.TOPIC, app_id, seen, next_step=mend)


def _extension(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> bytes | None:
    try:
        found = certificate.extensions.get_extension_for_oid(oid).value
    except (x509.ExtensionNotFound, ValueError):
        return None
    return found.value if isinstance(found, x509.UnrecognizedExtension) else b""


def _fcm(app_id: str, settings: fcm_settings.Settings) -> Finding:
    if settings.credentials_file is None:
        return ok(Check.CREDENTIALS, app_id, "application default credentials, of no file")
    project = read_service_account(settings.credentials_file).project_id
    if project == settings.project_id:
        return ok(Check.CREDENTIALS, app_id, f"a whole service account of project {project}")
    seen = f"a service account of project {said(project)}, used for {settings.project_id} (allow_other_project)"
    return ok(Check.CREDENTIALS, app_id, seen)
