"""compose.yaml: shut in, and every file, command, port and setting that it names is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from pushgate import cli
from pushgate.commands import health
from pushgate.commands.emulate import emulate
from pushgate.commands.serve import serve
from pushgate.config import Settings, environment, load
from pushgate.config.keys import keys_of
from pushgate.config.listen import MANAGEMENT_LISTEN, parse_listen
from pushgate.errors import ConfigError

DEPLOY = Path(__file__).parents[2] / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CONFIG = tomllib.loads((DEPLOY / "pushgate.toml").read_text())
VOLUME = "/var/lib/pushgate"

every_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)


def seconds(duration: str) -> float:
    assert duration.endswith("s")
    return float(duration[:-1])


@every_service
def test_a_service_is_shut_in(service: dict[str, Any]) -> None:
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ulimits"]["core"] == 0
    assert [each.split(":")[0] for each in service["tmpfs"]] == ["/tmp"]
    assert service.keys().isdisjoint({"privileged", "user", "cap_add", "devices", "pid", "ipc"})
    assert service.get("network_mode", "") != "host"


@every_service
def test_only_the_volume_can_be_written(service: dict[str, Any]) -> None:
    ((name, target),) = (each.split(":") for each in service["volumes"])
    assert name in COMPOSE["volumes"]
    assert target == VOLUME
    assert f"VOLUME {VOLUME}\n" in DOCKERFILE


def test_it_is_built_from_what_there_is() -> None:
    for service in SERVICES.values():
        context = DEPLOY / service["build"]["context"]
        assert (context / service["build"]["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    options = COMPOSE["volumes"]["trial"]["driver_opts"]["o"].split(",")
    (user,) = re.findall(r"^USER (\d+):\1$", DOCKERFILE, re.M)
    assert {f"uid={user}", f"gid={user}", "mode=0700"} <= {*options}


@every_service
def test_the_commands_are_ones_that_there_are(service: dict[str, Any]) -> None:
    asked = service["healthcheck"]["test"]
    assert asked[0] == "CMD"
    for arguments in [service.get("command", ["serve", "--config", "x"]), asked[2:] if asked[1] == "pushgate" else []]:
        if arguments:
            cli.app.parse_args(arguments, exit_on_error=False, print_error=False)


def test_each_service_does_its_part() -> None:
    for name, wanted in (("emulators", emulate), ("trial", serve)):
        command, bound, _ = cli.app.parse_args(SERVICES[name]["command"], exit_on_error=False, print_error=False)
        assert command is wanted
        assert bound.arguments.get("folder", bound.arguments.get("config", Path()).parent) == Path(VOLUME)
    assert "command" not in SERVICES["gateway"], "the image's own"
    assert SERVICES["trial"]["network_mode"] == "service:emulators"
    assert SERVICES["trial"]["depends_on"]["emulators"]["condition"] == "service_healthy"
    assert {name: each.get("profiles") for name, each in SERVICES.items()} == {
        "gateway": None,
        "emulators": ["trial"],
        "trial": ["trial"],
    }


def test_the_gateways_configuration_is_where_the_image_looks() -> None:
    (mounted,) = SERVICES["gateway"]["configs"]
    source = COMPOSE["configs"][mounted["source"]]["file"]
    assert (DEPLOY / source).samefile(DEPLOY / "pushgate.toml")
    assert f'CMD ["serve", "--config", "{mounted["target"]}"]' in DOCKERFILE
    assert mounted["target"] in SERVICES["gateway"]["healthcheck"]["test"]


def test_each_file_that_the_configuration_names_is_a_secret() -> None:
    tables = [CONFIG["api"]["tls"], *CONFIG["apps"].values()]
    named = {value for table in tables for key, value in table.items() if key.endswith("_file")}
    mounted = SERVICES["gateway"]["secrets"]
    assert {each["target"] for each in mounted} == {f"/etc/pushgate/{name}" for name in named}
    assert {each["source"] for each in mounted} == COMPOSE["secrets"].keys() == named
    ignored = (DEPLOY / ".gitignore").read_text().split()
    assert {str(Path(each["file"]).parent) + "/" for each in COMPOSE["secrets"].values()} == {*ignored}


def test_the_file_for_the_status_page_opens_the_management_port_to_this_machine_with_a_token() -> None:
    more = yaml.safe_load((DEPLOY / "compose.status.yaml").read_text())
    assert [*more["services"]] == ["gateway"]
    gateway, (name,) = more["services"]["gateway"], more["secrets"]
    management = environment.overlay({}, gateway["environment"], Settings)
    assert management.faults == []
    port = gateway["environment"]["PUSHGATE_MANAGEMENT__LISTEN"].rpartition(":")[2]
    assert gateway["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert gateway["environment"]["PUSHGATE_MANAGEMENT__TOKEN_FILE"] == name
    (mounted,) = gateway["secrets"]
    folder = Path(SERVICES["gateway"]["configs"][0]["target"]).parent
    assert (mounted["source"], mounted["target"]) == (name, str(folder / name))
    beside = {str(Path(each["file"]).parent) for each in COMPOSE["secrets"].values()}
    assert {str(Path(more["secrets"][name]["file"]).parent)} == beside


def test_the_configuration_lacks_nothing_but_those_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_dir", lambda path: path == Path(VOLUME))
    with pytest.raises(ConfigError) as caught:
        load(DEPLOY / "pushgate.toml", environ={})
    assert {fault.path.rpartition(".")[2] for fault in caught.value.faults} == {
        key.path[-1] for key in keys_of(Settings) if key.path[-1] in _named()
    }
    assert all(fault.fault.startswith("cannot read") for fault in caught.value.faults)
    assert len(caught.value.faults) == len(COMPOSE["secrets"])


def _named() -> set[str]:
    return {key for table in (CONFIG["api"]["tls"], *CONFIG["apps"].values()) for key in table if key.endswith("_file")}


@every_service
def test_each_variable_is_a_setting(service: dict[str, Any]) -> None:
    assert environment.overlay({}, service.get("environment", {}), Settings).faults == []


def test_each_port_is_one_that_is_listened_on() -> None:
    ports = {name: [each.split(":")[-1] for each in service.get("ports", ())] for name, service in SERVICES.items()}
    assert ports["gateway"] == [CONFIG["api"]["listen"].split(":")[-1]]
    assert f"EXPOSE {ports['gateway'][0]}\n" in DOCKERFILE
    trial = parse_listen(SERVICES["trial"]["environment"]["PUSHGATE_API__LISTEN"])
    assert (ports["emulators"], trial.is_loopback) == ([str(trial.port)], False)
    assert SERVICES["emulators"]["ports"][0].startswith("127.0.0.1:"), "a trial is for this machine alone"


def test_health_asks_where_a_gateway_listens_that_was_told_nothing() -> None:
    assert f"http://{MANAGEMENT_LISTEN}" == health.DEFAULT_URL


def test_a_stop_gets_more_time_than_it_takes() -> None:
    assert seconds(SERVICES["gateway"]["stop_grace_period"]) >= Settings().delivery.drain_s + 10
    assert "--stop-timeout 40" in DOCKERFILE
