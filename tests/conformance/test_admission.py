"""admission: from settings to who may call, and what of it stays when settings change."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pushgate import admission
from pushgate.config import Settings, load
from pushgate.errors import ConfigError, RequestError
from tests.certificates import DAY, Authority

AUTHORITY = Authority("callers")
ERP = AUTHORITY.issue("erp.example.org")
NOW = datetime.now(UTC).replace(microsecond=0)
CLIENTS = (
    '[[clients]]\nname = "erp"\nsan = "erp.example.org"\nrate_per_s = 0.5\n[[clients]]\nname = "chat"\nsan = "c"\n'
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    AUTHORITY.issue("localhost").write(tmp_path, "server")
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem)
    (tmp_path / "crl.pem").write_bytes(AUTHORITY.revocation_list(ends=NOW + DAY))
    return tmp_path


def settings(folder: Path, *, auth: str = "mtls", tls: str = "", clients: str = CLIENTS) -> Settings:
    trust = 'client_ca_file = "ca.pem"\n' if auth == "mtls" else ""
    proxy = 'trusted_proxies = ["10.0.0.0/24"]\nproxy_header = "xfcc"\n' if auth == "proxy" else ""
    table = f'[api]\nauth = "{auth}"\n{proxy}[api.tls]\ncert_file = "server.pem"\nkey_file = "server.key"\n{trust}{tls}'
    path = folder / "pushgate.toml"
    path.write_text(table + (clients if auth != "none" else ""))
    return load(path, environ={})


def by_certificate(der: bytes) -> dict[str, Any]:
    return {"extensions": {"tls": {"client_cert_der": der}}}


def test_settings_say_who_is_known_and_how_often_each_may_ask(folder: Path) -> None:
    admitted = admission.of(settings(folder))
    assert admitted.identify(by_certificate(ERP.der)).name == "erp"
    assert admitted.names == ("erp", "chat")
    assert {name: (limit.rate_per_s, limit.burst) for name, limit in admitted.limits.items()} == {"erp": (0.5, 1.0)}
    assert admission.of(settings(folder, clients="")).names == ("verified",)
    assert admission.of(settings(folder, auth="none")).names == ("anyone",)


def test_each_way_to_know_callers_is_its_own(folder: Path) -> None:
    header = (b"x-forwarded-client-cert", b"DNS=erp.example.org")
    by_header = {"client": ("10.0.0.7", 1), "headers": [header], **by_certificate(b"")}
    proxied = admission.of(settings(folder, auth="proxy"))
    assert proxied.identify(by_header).name == "erp"
    with pytest.raises(RequestError):
        admission.of(settings(folder)).identify(by_header)
    with pytest.raises(RequestError):
        proxied.identify({**by_header, "client": ("10.0.1.7", 1)})
    assert admission.of(settings(folder, auth="none")).identify({}).name == "anyone"


def test_tls_stays_as_long_as_its_files_do(folder: Path) -> None:
    first = admission.of(settings(folder))
    same = admission.of(settings(folder, clients=""), before=first)
    assert (same.tls is first.tls, same.names) == (True, ("verified",))
    (folder / "ca.pem").write_bytes(AUTHORITY.pem + Authority().pem)
    assert admission.of(settings(folder), before=first).tls is not first.tls
    with_list = admission.of(settings(folder, tls='client_crl_file = "crl.pem"\n'))
    assert with_list.tls is not first.tls
    (folder / "crl.pem").write_bytes(AUTHORITY.revocation_list(ERP))
    anew = admission.of(settings(folder, tls='client_crl_file = "crl.pem"\n'), before=with_list)
    assert anew.tls is not with_list.tls
    assert with_list.identify(by_certificate(ERP.der)).name == "erp"
    with pytest.raises(RequestError):
        anew.identify(by_certificate(ERP.der))


def test_what_waits_for_a_restart_stays_as_it_was(folder: Path) -> None:
    first = admission.of(settings(folder))
    assert admission.of(settings(folder, auth="none"), before=first) is first
    proxied = admission.of(settings(folder, auth="proxy"))
    without = settings(folder, auth="proxy").model_copy()
    plain = without.model_copy(update={"api": without.api.model_copy(update={"tls": None})})
    still = admission.of(plain, before=proxied)
    assert still.tls is proxied.tls is not None
    assert admission.of(settings(folder, auth="proxy"), before=admission.of(plain)).tls is None


def test_what_cannot_be_read_any_more_is_a_fault_and_changes_nothing(folder: Path) -> None:
    loaded = settings(folder, tls='client_crl_file = "crl.pem"\n')
    (folder / "crl.pem").write_bytes(b"half")
    with pytest.raises(ConfigError) as caught:
        admission.of(loaded)
    (fault,) = caught.value.faults
    assert (fault.path, "no revocation list in" in fault.fault, bool(fault.mend)) == (
        "api.tls.client_crl_file",
        True,
        True,
    )
    (folder / "crl.pem").write_bytes(AUTHORITY.revocation_list())
    (folder / "server.key").write_bytes(ERP.key_pem)
    with pytest.raises(OSError):
        admission.of(loaded)


def test_it_tells_when_lists_end_and_what_they_leave_out(folder: Path) -> None:
    with capture_logs() as logs:
        without = admission.of(settings(folder))
        without.tell(NOW.timestamp())
        assert without.lists_end_at == 0
        loaded = settings(folder, tls='client_crl_file = "crl.pem"\n')
        admitted = admission.of(loaded)
        admitted.tell(NOW.timestamp())
        assert admitted.lists_end_at == (NOW + DAY).timestamp()
        assert logs == []
        admitted.tell((NOW + DAY).timestamp())
        (folder / "ca.pem").write_bytes(AUTHORITY.pem + Authority("other").pem)
        admission.of(settings(folder, tls='client_crl_file = "crl.pem"\n')).tell(NOW.timestamp())
    assert [(line["event"], line["issuer"], line["log_level"]) for line in logs] == [
        ("revocation list has ended", "CN=callers", "error"),
        ("no revocation list of an authority", "CN=other", "warning"),
    ]
