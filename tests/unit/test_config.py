"""Settings: what is taken, what is refused and how that is said, and what never comes back."""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from pushgate.config import Client, Settings, load
from pushgate.config.faults import HIDDEN, SECRET_FILES
from pushgate.config.keys import ANY_ITEM, ANY_NAME, Key, item_of, keys_of, models_in
from pushgate.errors import ConfigError, ConfigFault
from tests.provider_samples import private_pem

MARKER = "MARKER-c9f0f895"
KEYS = list(keys_of(Settings))

Faults = Callable[..., list[ConfigFault]]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    """Writes a configuration file and gives its path."""

    def written(text: str | bytes) -> Path:
        path = tmp_path / "pushgate.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return written


@pytest.fixture
def faults(write: Callable[[str | bytes], Path]) -> Faults:
    """The faults of a configuration."""

    def found(text: str | bytes, environ: Mapping[str, str] | None = None) -> list[ConfigFault]:
        with pytest.raises(ConfigError) as caught:
            load(write(text), environ=environ or {})
        return list(caught.value.faults)

    return found


# --- values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "path", "fault"),
    [
        ('[api]\nbase_path = "tenant"', "api.base_path", "not a path prefix"),
        ('[api]\nbase_path = "/a/../b"', "api.base_path", "not a path prefix"),
        ('[api]\nbase_path = "/a?b"', "api.base_path", "not a path prefix"),
        ('[api]\nbase_path = "//a"', "api.base_path", "not a path prefix"),
        ("[api]\nmax_request_kb = 255", "api.max_request_kb", "out of range"),
        ("[api]\nmax_request_kb = 256.0", "api.max_request_kb", "of the wrong type"),
        ("[api]\nmax_notification_kb = 2", "api.max_notification_kb", "out of range"),
        ("[api]\nmax_notification_kb = 1025", "api.max_notification_kb", "larger than max_request_kb"),
        ("[api]\nprocesses = 0", "api.processes", "out of range"),
        ("[api]\nprocesses = 65", "api.processes", "out of range"),
        ('[api]\nprocesses = "2"', "api.processes", "of the wrong type"),
        ("[api]\nprocesses = true", "api.processes", "of the wrong type"),
        ("[api]\nrequest_timeout_s = 0", "api.request_timeout_s", "out of range"),
        ('[api]\nallow_unauthenticated = "true"', "api.allow_unauthenticated", "of the wrong type"),
        ("[spool]\nmax_age_s = 86401", "spool.max_age_s", "out of range"),
        ("[spool]\nmax_age_s = 0", "spool.max_age_s", "out of range"),
        ("[spool]\nurl = 1", "spool.url", "of the wrong type"),
        ("spool = 1", "spool", "of the wrong type"),
        ("api = []", "api", "of the wrong type"),
        ("apps = []", "apps", "of the wrong type"),
        ("clients = 1", "clients", "of the wrong type"),
        ("clients = [1]", "clients[0]", "of the wrong type"),
        ("[dedup]\nwindow_s = -1", "dedup.window_s", "out of range"),
        ("[rejections]\nremember_s = 0", "rejections.remember_s", "out of range"),
        ("[rejections]\nbreaker_share = 1.1", "rejections.breaker_share", "out of range"),
        ("[rejections]\nbreaker_count = 0", "rejections.breaker_count", "out of range"),
        ("[delivery]\nretry_scale = 0", "delivery.retry_scale", "out of range"),
        ("[delivery]\ndrain_s = nan", "delivery.drain_s", "out of range"),
    ],
)
def test_a_value_that_cannot_be_is_one_fault_at_its_place(faults: Faults, toml: str, path: str, fault: str) -> None:
    first, *others = faults(toml)
    assert (first.path, first.fault) == (path, fault)
    assert first.mend
    assert all(other.path.startswith("clients") for other in others), "only what clients lack besides"


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", "not a spool"),
        ("spool.db", "not a spool"),
        ("sqlite:", "not a spool"),
        ("sqlite:///spool.db", "not a spool"),
        ("sqlite::memory:", "not a spool"),
        ("postgres://user:MARKER-c9f0f895@db/x", "not a spool"),
        ("nats://user:MARKER-c9f0f895@a:4222", "a login belongs into"),
        ("memory:x", "not a spool"),
        ("sqlite:no/spool.db", "no such directory: "),
        ("sqlite:.", " is a directory"),
    ],
)
def test_a_spool_that_cannot_be_is_refused_without_repeating_its_password(faults: Faults, url: str, fault: str) -> None:
    (found,) = faults(f"[spool]\nurl = {json.dumps(url)}")
    assert found.path == "spool.url"
    assert fault in found.fault
    assert MARKER not in str(found)


def test_paths_are_relative_to_the_file_wherever_they_were_set(write: Callable[[str], Path], tmp_path: Path) -> None:
    assert load(write(""), environ={}).spool.sqlite_path == tmp_path / "spool.db"
    (tmp_path / "data").mkdir()
    environ = {"PUSHGATE_SPOOL__URL": "sqlite:data/s.db"}
    assert load(write(""), environ=environ).spool.sqlite_path == tmp_path / "data/s.db"
    absolute = load(write(f'[spool]\nurl = "sqlite:{tmp_path}/data/a.db"'), environ={})
    assert absolute.spool.sqlite_path == tmp_path / "data/a.db"
    assert load(write('[spool]\nurl = "memory:"'), environ={}).spool.sqlite_path is None


def test_fingerprints_and_subjects_come_in_the_form_that_they_are_compared_in() -> None:
    client = Client(name="erp", sha256="AB:" * 31 + "AB", subject=r"CN=erp\, inc,O=Example")
    assert client.sha256 == "ab" * 32
    assert client.subject == r"CN=erp\, inc,O=Example"
    assert client.apps == ("*",)


@pytest.mark.parametrize(
    ("key", "first", "again"),
    [
        ("subject", "CN=erp\\, inc,C=DE", "CN=erp\\2c inc,C=DE"),
        ("subject", "CN=erp,O=Example", "2.5.4.3=erp,2.5.4.10=Example"),
        ("sha256", "ab" * 32, "AB:" * 31 + "AB"),
        ("spki_sha256", "AB" * 32, "ab" * 32),
        ("san", "erp.example.org", "erp.example.org"),
    ],
)
def test_one_caller_written_in_two_ways_is_a_fault(faults: Faults, key: str, first: str, again: str) -> None:
    written = (("a", first), ("b", again))
    entries = "".join(f"[[clients]]\nname = '{name}'\n{key} = '{value}'\n" for name, value in written)
    found = {fault.path: fault.fault for fault in faults(f'[api]\nauth = "proxy"\n{entries}')}
    assert found[f"clients[1].{key}"] == f"the same as clients[0].{key}"


def test_settings_cannot_be_changed(write: Callable[[str], Path]) -> None:
    loaded = load(write(""), environ={})
    with pytest.raises(ValidationError):
        loaded.api.auth = "mtls"  # type: ignore[misc]  # what is tried


def every_table(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for annotation in (field.annotation, item_of(field.annotation)):
            for inner in models_in(annotation):
                yield from every_table(inner)


@pytest.mark.parametrize("table", sorted(set(every_table(Settings)), key=str), ids=lambda table: str(table))
def test_every_table_is_frozen_and_knows_its_keys(table: type[BaseModel]) -> None:
    assert table.model_config.get("frozen")
    assert table.model_config.get("extra") == "forbid"


@pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key.provider}-{'.'.join(key.path)}")
def test_a_misspelt_key_names_the_right_one(faults: Faults, key: Key) -> None:
    *table, name = key.path
    wrong = f"{name[:-1]}{name[-1] * 2}x" if len(name) > 3 else f"{name}{name[-1]}"
    found = {fault.path: fault.mend for fault in faults(toml_with((*table, wrong), "1", provider=key.provider))}
    mends = [mend for path, mend in found.items() if path.endswith(f".{wrong}")]
    assert mends == [f"did you mean {name}?"]


@pytest.mark.parametrize(
    ("toml", "mend"),
    [
        ('listen = "127.0.0.1:80"', "move it to [api] or [management]"),
        ("[api]\nmax_age_s = 5", "move it to [spool]"),
        ("[spool]\nsan = 5", "move it to [[clients]]"),
        ("[log]\nqqq = 5", "known here: format, level"),
        ("[log]\nLEVEL = 5", "did you mean level?"),
        (
            '[apps.a]\nprovider = "fcm"\nproject_id = "my-project"\nteam_id = "x"',
            'move it to [apps.<name>] with provider = "apns"',
        ),
    ],
)
def test_a_key_in_the_wrong_place_is_told_where_it_belongs(faults: Faults, toml: str, mend: str) -> None:
    (found,) = faults(toml)
    assert (found.fault, found.mend) == ("unknown key", mend)


def toml_with(path: tuple[str, ...], value: str, *, provider: str) -> str:
    """A configuration with this value at this key."""
    *table, name = path
    if ANY_NAME in table:
        head = f'[apps."de.example.app"]\nprovider = "{provider}"\n'
        inner = table[2:]
        return head + (f'[apps."de.example.app".{inner[0]}]\n' if inner else "") + f"{name} = {value}\n"
    if ANY_ITEM in table:
        return f"[[clients]]\n{name} = {value}\n"
    return f"[{'.'.join(table)}]\n{name} = {value}\n"


# --- secrets ----------------------------------------------------------------------------------------------------

SHOWN = {"clients.[].apps", "apps.<name>.forward_data"}
"""Lists whose items are shown: patterns of app_ids and names of keys."""


@pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key.provider}-{'.'.join(key.path)}")
def test_no_fault_repeats_a_value(faults: Faults, key: Key) -> None:
    for value in (f'"{MARKER}"', f'["{MARKER}"]', f'{{ {MARKER[:6]} = "{MARKER}" }}'):
        if key.path[-1] == "provider":
            continue
        text = str(ConfigError(faults_or_none(faults, toml_with(key.path, value, provider=key.provider))))
        is_path = key.path[-1].endswith("_file") and key.path[-1] not in SECRET_FILES
        assert is_path or ".".join(key.path) in SHOWN or MARKER not in text
    assert MARKER not in str(faults(f'[apps.a]\nprovider = "{MARKER}"'))


def faults_or_none(faults: Faults, text: str) -> list[ConfigFault]:
    try:
        return faults(text)
    except pytest.fail.Exception:
        return []


PASTED = [
    f"-----BEGIN PRIVATE KEY-----\\n{MARKER}\\n-----END PRIVATE KEY-----",
    f"MIGTAgEA{MARKER}{'x' * 150}",
    f'{{\\"private_key\\": \\"{MARKER}\\"}}',
]


@pytest.mark.parametrize("pasted", PASTED)
@pytest.mark.parametrize("key", [key for key in KEYS if key.path[-1].endswith("_file")], ids=lambda key: key.path[-1])
def test_a_secret_pasted_where_a_path_belongs_is_not_repeated(faults: Faults, key: Key, pasted: str) -> None:
    beside = 'proxy = "http://proxy.example.org:3128"\n' if key.path[-1] == "proxy_login_file" else ""
    found = faults(toml_with(key.path, f'"{pasted}"', provider=key.provider) + beside)
    assert MARKER not in str(found)
    assert any(HIDDEN in fault.fault for fault in found)


@given(seed=st.binary(min_size=48, max_size=140), form=st.sampled_from(["standard", "url-safe", "no padding"]))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_pasted_key_is_shown_whatever_slashes_are_in_it(faults: Faults, seed: bytes, form: str) -> None:
    pasted = (urlsafe_b64encode(seed) if form == "url-safe" else b64encode(seed)).decode()
    pasted = pasted.rstrip("=") if form == "no padding" else pasted
    found = faults(f'[api.tls]\ncert_file = "/etc/cert.pem"\nkey_file = "{pasted}"\n' + APNS.format(path=pasted))
    shown = str(ConfigError(found))
    assert not [piece for piece in pasted.split("/") if len(piece) > 5 and piece in shown]


def test_no_signing_key_on_one_line_is_shown(faults: Faults) -> None:
    for _ in range(100):
        pem = private_pem(ec.generate_private_key(ec.SECP256R1())).decode().splitlines()
        for pasted in ("".join(pem), "".join(pem[1:-1]), " ".join(pem[1:-1]), *pem[1:3]):
            shown = str(ConfigError(faults(APNS.format(path=pasted))))
            assert HIDDEN in shown
            assert not [piece for line in pem[1:-1] for piece in line.split("/") if len(piece) > 5 and piece in shown]


APNS = """
[apps.a]
provider = "apns"
bundle_id = "a.b"
key_id = "ABCDE12345"
team_id = "ABCDE12345"
key_file = "{path}"
"""


@pytest.mark.parametrize(
    "path",
    [
        "/etc/pushgate/keys/AuthKey_ABC1234567.p8",
        "/var/lib/pushgate/credentials/production/de.example.app/AuthKey_ABC1234567.p8",
        "/srv/" + "/".join(["a-long-name-of-a-folder"] * 8) + "/AuthKey_ABC1234567.p8",
        "/run/secrets/apns-key",
        "keys/AuthKey_ABC1234567.p8",
        "AuthKey_ABC1234567.pem",
    ],
)
def test_a_path_that_leads_nowhere_is_shown(faults: Faults, path: str) -> None:
    (found,) = faults(APNS.format(path=path))
    assert path in found.fault
    assert HIDDEN not in str(found)


def test_a_path_in_a_folder_that_is_there_is_shown_however_long_it_is(faults: Faults, tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["a-long-name-of-a-folder-" + "x" * 40] * 4)
    folder.mkdir(parents=True)
    (folder / "secrets").mkdir()
    for path in (folder / "apns-key", folder / "secrets"):
        (found,) = faults(APNS.format(path=path))
        assert str(path) in found.fault
        assert HIDDEN not in str(found)


# --- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "place", "fault"),
    [
        (b"[api]\nlisten = \n", ", line 2, column 10", "not TOML: Invalid value"),
        (b"[api]\n[api]\n", ", line 2, column 5", "not TOML: Cannot declare ('api',) twice"),
        (b"[api]\nlisten = '\xff'", ", byte 16", "not UTF-8"),
        (b"x = " + b"[" * 3000, "", "not TOML: "),
        (b"x = " + b"9" * 5000, "", "not TOML: "),
        (b"a" + b".a" * 500 + b" = 1", "", "tables nested over 8 deep"),
    ],
)
def test_a_file_that_cannot_be_read_as_toml_says_where(faults: Faults, content: bytes, place: str, fault: str) -> None:
    (found,) = faults(content)
    assert found.path.endswith(f"pushgate.toml{place}")
    assert found.fault.startswith(fault)


def test_a_file_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot read it"):
            load(path, environ={})


@given(text=st.text() | st.from_regex(r'(\[[a-z."\[\]]{1,12}\]\n?|[a-z_]{1,9} = ["\[{0-9a-z.:\-}\] ]{0,9}\n?){0,6}'))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_settings_or_named_faults(write: Callable[[str | bytes], Path], text: str) -> None:
    try:
        assert isinstance(load(write(text.encode(errors="replace")), environ={}), Settings)
    except ConfigError as error:
        assert error.faults
        assert all(fault.path and fault.fault and fault.mend for fault in error.faults)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["apns", "fcm", "mtls"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "x"]), inner, max_size=2),
    max_leaves=4,
)


@given(values=st.dictionaries(st.sampled_from(KEYS).map(lambda key: key.path), VALUES, max_size=6), data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_values_at_known_keys_are_settings_or_named_faults(
    write: Callable[[str | bytes], Path], values: dict[tuple[str, ...], object], data: st.DataObject
) -> None:
    tables: dict[str, Any] = {}
    for path, value in values.items():
        node: Any = tables
        for part in path[:-1]:
            if part == ANY_ITEM:
                break
            node = node.setdefault("app" if part == ANY_NAME else part, {})
            if not isinstance(node, dict):
                break
        if isinstance(node, dict):
            node[path[-1]] = value
    whole = data.draw(st.booleans())
    environ = {f"PUSHGATE_{name}": json.dumps(table) for name, table in tables.items()} if whole else {}
    try:
        load(write("" if whole else "[api]"), environ=environ)
    except ConfigError as error:
        assert all(fault.path and fault.fault and fault.mend for fault in error.faults)
