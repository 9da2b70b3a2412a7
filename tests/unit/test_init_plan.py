"""What `pushgate init` makes of flags and answers, and the text that it writes."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from pushgate.setup import Answers, Missing, Plan, authority, choose
from pushgate.setup.found import Unusable
from pushgate.setup.text import configuration, near, value

NOWHERE = Path("/nowhere")
"""A folder with nothing in it: there is none."""
KEY = NOWHERE / "AuthKey_ABC1234567.p8"
NOW = datetime(2026, 6, 1, tzinfo=UTC)


class Terminal:
    """Somebody who answers in order, and whose questions are kept."""

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)
        self.questions: list[str] = []

    def __call__(self, question: str, default: str) -> str:
        self.questions.append(question)
        return self._answers.pop(0) or default


def test_the_key_id_comes_from_the_name_of_the_file() -> None:
    given = Answers(bundle_id="org.example.app", signing_key=KEY, team_id="TEAM123456")
    plan = choose(NOWHERE, given, ask=None)
    assert plan.apps == {
        "org.example.app.apns": {
            "provider": "apns",
            "bundle_id": "org.example.app",
            "environment": "production",
            "key_file": str(KEY),
            "key_id": "ABC1234567",
            "team_id": "TEAM123456",
        }
    }
    assert plan.notes == ("the key id is ABC1234567: it stands in the name of AuthKey_ABC1234567.p8",)
    assert (plan.listen, plan.is_mutual) == ("127.0.0.1:8080", False)


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        (Answers(), ["--apns BUNDLE_ID, --fcm PROJECT_ID or --demo-apps FOLDER"]),
        (Answers(dev_ca=True), ["--apns BUNDLE_ID, --fcm PROJECT_ID or --demo-apps FOLDER"]),
        (Answers(bundle_id="org.example.app"), ["--apns-key FILE", "--apns-team ID"]),
        (Answers(team_id="TEAM123456"), ["--apns BUNDLE_ID", "--apns-key FILE"]),
        (
            Answers(bundle_id="org.example.app", signing_key=Path("key.p8")),
            ["--apns-key-id ID: it does not stand in the name of key.p8", "--apns-team ID"],
        ),
        (Answers(fcm_app="x"), ["--fcm PROJECT_ID"]),
        (Answers(project_id="my-project", cert_file=Path("s.pem")), ["--cert-file, --key-file and --client-ca-file"]),
        (Answers(project_id="my-project", callers=("erp",)), ["--dev-ca, or --cert-file with its companions"]),
    ],
)
def test_all_flags_that_are_missing_are_told_at_once(given: Answers, flags: Sequence[str]) -> None:
    with pytest.raises(Missing) as missing:
        choose(NOWHERE, given, ask=None)
    assert [told.startswith(flag) for told, flag in zip(missing.value.flags, flags, strict=True)] == [True] * len(flags)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Answers(project_id="p", dev_ca=True, callers=("../x",)), "'../x' is no name"),
        (
            Answers(project_id="p", dev_ca=True, cert_file=KEY, key_file=KEY, client_ca_file=KEY),
            "--dev-ca contradicts --cert-file",
        ),
        (Answers(demo_apps=NOWHERE), "holds no emulators' configuration"),
        (Answers(account=NOWHERE / "account.json"), "cannot read"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_mend(given: Answers, said: str) -> None:
    with pytest.raises(Unusable, match=r" -> ") as fault:
        choose(NOWHERE, given, ask=None)
    assert said in str(fault.value)


def test_a_terminal_is_asked_for_what_no_flag_says(tmp_path: Path) -> None:
    (key := tmp_path / KEY.name).touch()
    terminal = Terminal("org.example.app", "y", str(key), "TEAM123456", "my-project", "", "y")
    plan = choose(NOWHERE, Answers(), ask=terminal)
    assert [*plan.apps] == ["org.example.app.apns", "my-project.app.firebase"]
    assert plan.apps["org.example.app.apns"]["environment"] == "sandbox"
    assert "credentials_file" not in plan.apps["my-project.app.firebase"]
    assert (plan.dev_ca, plan.listen, plan.callers) == (True, "127.0.0.1:8443", ("backend",))
    assert "ten letters and digits" in terminal.questions[3]


def test_an_answer_that_cannot_be_used_is_asked_for_again(tmp_path: Path) -> None:
    (key := tmp_path / "apple.p8").touch()
    answers = ["org.example.app", "", str(KEY), str(key), "abc", "ABC1234567", "TEAM", "TEAM123456", "my-project"]
    terminal = Terminal(*answers, "/nowhere/account.json", "", "n")
    plan = choose(NOWHERE, Answers(), ask=terminal)
    app = plan.apps["org.example.app.apns"]
    assert (app["key_file"], app["key_id"], app["team_id"]) == (str(key), "ABC1234567", "TEAM123456")
    again = [question.partition(". ")[0] for question in terminal.questions if ". " in question]
    assert again == [
        "There is no such file",
        *["These are not ten capital letters and digits"] * 2,
        "There is no such file",
    ]


def test_who_has_no_app_is_asked_for_emulators(tmp_path: Path) -> None:
    (tmp_path / "pushgate.toml").write_text('[apps."a"]\nprovider = "fcm"\nca_file = "ca.pem"\n')
    terminal = Terminal("", "", "/nowhere", str(tmp_path), "n")
    plan = choose(NOWHERE, Answers(), ask=terminal)
    assert plan.apps == {"a": {"provider": "fcm", "ca_file": str(tmp_path.resolve() / "ca.pem")}}
    assert terminal.questions[3].startswith("No pushgate.toml is in it. For a trial without either")
    with pytest.raises(Missing, match="no app is named"):
        choose(NOWHERE, Answers(), ask=Terminal("", "", ""))


@pytest.mark.parametrize(
    ("listen", "hosts", "count"), [("0.0.0.0:8443", (), 1), ("0.0.0.0:8443", ("x",), 0), ("", (), 0)]
)
def test_a_certificate_that_others_cannot_use_is_noted(listen: str, hosts: tuple[str, ...], count: int) -> None:
    plan = choose(NOWHERE, Answers(project_id="p", account=None, listen=listen, hosts=hosts, dev_ca=True), ask=None)
    assert len([note for note in plan.notes if "--host NAME" in note]) == count


def test_who_names_an_app_is_asked_for_no_other() -> None:
    terminal = Terminal("TEAM123456", "n")
    plan = choose(NOWHERE, Answers(bundle_id="org.example.app", signing_key=KEY), ask=terminal)
    assert [*plan.apps] == ["org.example.app.apns"]
    assert [question.split(" ")[0] for question in terminal.questions] == ["Team", "Make"]
    assert plan.is_mutual is False


def plan_of(**more: object) -> Plan:
    fields: dict[str, object] = {
        "listen": "0.0.0.0:8443",
        "dev_ca": False,
        "hosts": (),
        "callers": ("erp",),
        "cert_file": NOWHERE / "tls" / "s.pem",
        "key_file": Path("/etc/s.key"),
        "client_ca_file": NOWHERE / "ca.pem",
        "apps": {'odd "id"': {"provider": "fcm", "project_id": "my-project"}},
    }
    return Plan(**(fields | more))  # type: ignore[arg-type] # as the fields are


def test_the_text_says_what_was_chosen_and_nothing_else() -> None:
    tables = tomllib.loads(configuration(plan_of(), folder=NOWHERE))
    assert tables == {
        "api": {
            "listen": "0.0.0.0:8443",
            "auth": "mtls",
            "tls": {"cert_file": "tls/s.pem", "key_file": "/etc/s.key", "client_ca_file": "ca.pem"},
        },
        "spool": {"url": "sqlite:spool.db"},
        "management": {"listen": "127.0.0.1:8081"},
        "apps": {'odd "id"': {"provider": "fcm", "project_id": "my-project"}},
        "clients": [{"name": "erp", "san": "erp"}],
    }
    without = plan_of(cert_file=None, key_file=None, client_ca_file=None, callers=())
    text = configuration(without, folder=NOWHERE)
    assert tomllib.loads(text)["api"] == {"listen": "0.0.0.0:8443", "auth": "none"}
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(
    "each",
    ['say "hi"\\', "ä\x00\x7f\x1f\n", "😀", True, 7, 0.5, ["a", 1], {"title": "x", "y z": {"deep": [False]}}],
)
def test_every_value_reads_as_it_was_written(each: object) -> None:
    assert tomllib.loads(f"x = {value(each)}")["x"] == each


def test_paths_below_the_folder_are_relative_to_it() -> None:
    assert near("/nowhere/keys/k.p8", NOWHERE) == "keys/k.p8"
    assert near("/elsewhere/k.p8", NOWHERE) == "/elsewhere/k.p8"
    assert near("tls/ca.pem", NOWHERE) == "tls/ca.pem"


def certificates(files: Mapping[str, bytes]) -> dict[str, x509.Certificate]:
    return {name: x509.load_pem_x509_certificate(pem) for name, pem in files.items() if name.endswith(".pem")}


def test_the_development_ca_signs_for_both_sides_and_for_a_short_time() -> None:
    files = authority.make(hosts=["gw.example.org", "10.0.0.7", "localhost"], callers=["erp", "chat"], now=NOW)
    found = certificates(files)
    assert [*found] == ["tls/ca.pem", "tls/server.pem", "tls/caller-erp.pem", "tls/caller-chat.pem"]
    root = found.pop("tls/ca.pem")
    root.verify_directly_issued_by(root)
    for name, each in found.items():
        each.verify_directly_issued_by(root)
        assert each.not_valid_after_utc == NOW + timedelta(days=90)
        key = load_pem_private_key(files[name.replace(".pem", ".key")], None)
        assert key.public_key() == each.public_key()
    names = found["tls/server.pem"].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "gw.example.org"]
    assert list(map(str, names.get_values_for_type(x509.IPAddress))) == ["127.0.0.1", "::1", "10.0.0.7"]
    purpose = found["tls/caller-erp.pem"].extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [*purpose] == [ExtendedKeyUsageOID.CLIENT_AUTH]
