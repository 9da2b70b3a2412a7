"""The Helm chart, rendered by Helm's own library and judged by Kubernetes' own schemas, then by what pushgate knows.

Helm runs in a process of its own: its library brings the runtime of another language with it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import trustme
import yaml
from msgspec import Struct

import pushgate
from pushgate import cli
from pushgate.commands.serve import serve
from pushgate.config import load
from pushgate.console import HEALTH

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "pushgate"
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
VERSIONS = ("1.27", "1.34")
"""Of Kubernetes: the oldest that the chart takes, and a young one."""

KEYS = [{"name": "keys", "items": [{"key": "apns", "path": "AuthKey.p8"}]}]
NATS = {"spool": {"kind": "nats", "nats": {"url": "nats://a.example.org:4222,b.example.org:4222"}}}
EVERYTHING = {
    "image": {"digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "pull"}],
    "extraEnv": [{"name": "PUSHGATE_LOG__LEVEL", "value": "debug"}],
    "secrets": [{"name": "callers"}, {"name": "tls", "optional": True}],
    "providerSecrets": KEYS,
    "spool": {"sqlite": {"storageClass": "fast", "accessModes": ["ReadWriteOncePod"]}},
    "replicas": 3,
    "drainSeconds": 90,
    "service": {"type": "LoadBalancer", "annotations": {"example.org/a": "b"}},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "networkPolicy": {
        "callers": [{"namespaceSelector": {"matchLabels": {"calls": "pushgate"}}}],
        "monitoring": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        "providers": [{"ipBlock": {"cidr": "17.0.0.0/8"}}],
        "extraEgress": [{"ports": [{"port": 3128}]}],
    },
    "serviceAccount": {"annotations": {"example.org/role": "push"}, "automount": True},
    "podDisruptionBudget": {"maxUnavailable": "50%"},
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "k", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}],
    "priorityClassName": "high",
}
CASES: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "everything set": EVERYTHING,
    "nats": NATS,
    "nats, everything set": {**EVERYTHING, **NATS},
    "nats, elsewhere": {
        "spool": {"kind": "nats", "nats": {"url": "nats://[fd00::1]:14222"}},
        "networkPolicy": {"natsPorts": [4222, 14222], "nats": [{"ipBlock": {"cidr": "fd00::/64"}}]},
    },
    "nothing that may be left out": {
        "networkPolicy": {"enabled": False},
        "serviceAccount": {"create": False},
        "podDisruptionBudget": {"enabled": False},
        "secrets": [],
    },
    "IPv6": {"listenHost": "[::]", "management": {"port": 9000}, "fullnameOverride": "pg"},
}

RENDER = """
import json, sys
import helm_python
from helm_python.chart import lint
chart, cases = sys.argv[1], json.loads(sys.argv[2])
with helm_python.Chart.load(chart) as opened:
    rendered = {name: opened.render(values, name="gate", namespace="push") for name, values in cases.items()}
print(json.dumps({"lint": lint(chart, strict=True, kube_version="v1.27.0"), "rendered": rendered}))
"""
REFUSED = """
import json, sys
import helm_python
with helm_python.Chart.load(sys.argv[1]) as opened:
    for values in json.loads(sys.argv[2]):
        try:
            opened.validate_schema(opened.merge_values(values))
            opened.render(values)
        except helm_python.HelmError as error:
            print(type(error).__name__)
        else:
            print("taken")
"""
JUDGE = """
import functools, json, sys
from kubernetes_validate import utils
utils.schema_contents = functools.cache(utils.schema_contents)  # they are large
for document in json.load(sys.stdin):
    for version in sys.argv[1:]:
        utils.validate(document, version, strict=True)
"""


def python(script: str, *arguments: str, stdin: str = "") -> str:
    """What a script prints. It must come to its end."""
    for tool in ("helm_python", "kubernetes_validate"):
        if find_spec(tool) is None:
            pytest.skip(f"needs {tool}")
    ran = subprocess.run(
        [sys.executable, "-c", script, *arguments], input=stdin, capture_output=True, text=True, timeout=50
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


class Rendered(Struct, frozen=True):
    """What came of a case."""

    values: Mapping[str, Any]
    documents: Sequence[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [each for each in self.documents if each["kind"] == kind]

    @property
    def workloads(self) -> list[dict[str, Any]]:
        return self.of("StatefulSet") + self.of("Deployment")

    @property
    def uses_nats(self) -> bool:
        return bool(self.values.get("spool", {}).get("kind") == "nats")


def container(workload: dict[str, Any]) -> dict[str, Any]:
    (found,) = workload["spec"]["template"]["spec"]["containers"]
    return dict(found)


def environment(workload: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container(workload)["env"]}


def selects(selector: Mapping[str, str], workload: dict[str, Any]) -> bool:
    return bool(selector.items() <= workload["spec"]["template"]["metadata"]["labels"].items())


@pytest.fixture(scope="module")
def helm() -> dict[str, Any]:
    answer = json.loads(python(RENDER, str(CHART), json.dumps(CASES)))
    assert isinstance(answer, dict)
    return answer


@pytest.fixture(scope="module", params=CASES)
def rendered(request: pytest.FixtureRequest, helm: dict[str, Any]) -> Rendered:
    manifests = [text for name, text in helm["rendered"][request.param].items() if name.endswith(".yaml")]
    return Rendered(CASES[request.param], [each for text in manifests for each in yaml.safe_load_all(text) if each])


# --- as Helm and Kubernetes see it


def test_lint_finds_nothing(helm: dict[str, Any]) -> None:
    assert [each for each in helm["lint"]["messages"] if each["severity"] > 1] == []


def test_kubernetes_knows_every_field(helm: dict[str, Any]) -> None:
    texts = {text for case in helm["rendered"].values() for name, text in case.items() if name.endswith(".yaml")}
    documents = [each for text in texts for each in yaml.safe_load_all(text) if each]
    known = [each for each in documents if each["kind"] != "ServiceMonitor"]  # which is not Kubernetes' own
    assert len(known) > 20
    python(JUDGE, *VERSIONS, stdin=json.dumps(known))


def test_values_that_are_wrong_are_refused() -> None:
    wrong: Sequence[Mapping[str, Any]] = [
        {"replica": 1},
        {"spool": {"kind": "postgres"}},
        {"spool": {"kind": "nats"}},  # and no address
        {"spool": {"kind": "nats", "nats": {"url": "nats://user:password@a.example.org"}}},
        {"spool": {"sqlite": {"accessModes": ["ReadWriteMany"]}}},
        {"secrets": [{"name": "a", "items": [{"key": "k", "path": "../k"}]}]},
        {"providerSecrets": [{"name": "a", "items": [{"key": "k", "path": "../k"}]}]},
        {"listenHost": "everywhere"},
        {"drainSeconds": 601},
        {"config": ""},
        {"podDisruptionBudget": {"maxUnavailable": 0}},
        {"management": {"tokenSecret": {"name": ""}}},
    ]
    said = python(REFUSED, str(CHART), json.dumps([*wrong, {}])).split()
    assert said == [
        "HelmValuesError" if each != {"spool": {"kind": "nats"}} else "HelmRenderError" for each in wrong
    ] + ["taken"]


def test_the_schema_knows_every_value_that_there_is() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema_rs.meta.validate(schema)

    def compare(values: Mapping[str, Any], told: Mapping[str, Any], at: str) -> Iterator[str]:
        properties = told.get("properties")
        if properties is None:
            return
        yield from (f"{at}.{name}" for name in values.keys() ^ (properties.keys() - {"global"}))
        for name in values.keys() & properties.keys():
            if isinstance(values[name], dict):
                yield from compare(values[name], properties[name], f"{at}.{name}")

    assert [*compare(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")] == []


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["appVersion"], chart["name"]) == (pushgate.__version__, "pushgate")
    assert chart["kubeVersion"] == f">={VERSIONS[0]}.0-0"


# --- as its parts see each other


def test_every_name_leads_somewhere(rendered: Rendered) -> None:
    workloads = rendered.workloads
    names = [(each["kind"], each["metadata"]["name"]) for each in rendered.documents]
    assert len(names) == len(set(names))
    for workload in workloads:
        assert selects(workload["spec"]["selector"]["matchLabels"], workload)
        spec = workload["spec"]["template"]["spec"]
        volumes = {each["name"] for each in spec["volumes"]}
        volumes |= {each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", ())}
        assert {each["name"] for each in container(workload)["volumeMounts"]} == volumes
        sources = next(each["projected"]["sources"] for each in spec["volumes"] if each["name"] == "config")
        maps = [("ConfigMap", each["configMap"]["name"]) for each in sources if "configMap" in each]
        assert set(maps) <= set(names)
        if rendered.values.get("serviceAccount", {}).get("create", True):
            assert ("ServiceAccount", spec["serviceAccountName"]) in names
        if "serviceName" in workload["spec"]:
            assert ("Service", workload["spec"]["serviceName"]) in names
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        chosen = [
            each["spec"].get("selector", each["spec"].get("podSelector"))["matchLabels"] for each in rendered.of(kind)
        ]
        assert all(sum(selects(labels, each) for each in workloads) == 1 for labels in chosen)
        assert len(chosen) in (0, len(workloads))


def test_every_port_is_one_that_the_pods_have(rendered: Rendered) -> None:
    for service in rendered.of("Service"):
        chosen = [each for each in rendered.workloads if selects(service["spec"]["selector"], each)]
        assert chosen
        for workload, port in ((each, port) for each in chosen for port in service["spec"]["ports"]):
            assert port["targetPort"] in {each["name"] for each in container(workload)["ports"]}
    for monitor in rendered.of("ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (service,) = (each for each in rendered.of("Service") if wanted <= each["metadata"]["labels"].items())
        assert {each["port"] for each in monitor["spec"]["endpoints"]} <= {
            each["name"] for each in service["spec"]["ports"]
        }
        assert all(selects(service["spec"]["selector"], each) for each in rendered.workloads)


def test_only_who_sends_reaches_the_providers_and_only_who_takes_is_called(rendered: Rendered) -> None:
    for policy in rendered.of("NetworkPolicy"):
        role = policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        out = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
        into = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        assert (443 in out, 4222 in out, "api" in into) == (role != "api", rendered.uses_nats, role != "worker")
        assert ("management" in into) == bool(rendered.values.get("networkPolicy", {}).get("monitoring"))
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


# --- as an attacker sees it


def test_pods_are_restricted(rendered: Rendered) -> None:
    """Kubernetes' Pod Security Standards, profile "restricted", and a root that is read-only."""
    (user,) = re.findall(r"^USER (\d+):\1$", DOCKERFILE, re.M)
    for workload in rendered.workloads:
        spec = workload["spec"]["template"]["spec"]
        pod, inner = spec["securityContext"], container(workload)["securityContext"]
        assert {pod[name] for name in ("runAsUser", "runAsGroup", "fsGroup")} == {int(user)}
        assert (pod["runAsNonRoot"], pod["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
        assert inner == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert spec["automountServiceAccountToken"] is rendered.values.get("serviceAccount", {}).get("automount", False)
        assert "hostNetwork" not in spec
        assert not any("hostPath" in each for each in spec["volumes"])
        (config,) = (each for each in spec["volumes"] if each["name"] == "config")
        assert config["projected"]["defaultMode"] == 0o440, "not for others"


def test_only_who_sends_has_the_keys_of_the_providers(rendered: Rendered) -> None:
    given = rendered.values.get("providerSecrets", [])
    for workload in rendered.workloads:
        role = workload["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        (config,) = (each for each in workload["spec"]["template"]["spec"]["volumes"] if each["name"] == "config")
        mounted = [each["secret"] for each in config["projected"]["sources"] if "secret" in each]
        assert [each for each in mounted if each["name"] == "keys"] == ([] if role == "api" else given)
        assert all(each in mounted for each in rendered.values.get("secrets", []))


# --- as pushgate sees it


def test_a_stop_gets_more_time_than_it_takes(rendered: Rendered) -> None:
    for workload in rendered.workloads:
        drain_s = float(environment(workload)["PUSHGATE_DELIVERY__DRAIN_S"])
        lifecycle = container(workload).get("lifecycle")
        before_s = float(lifecycle["preStop"]["exec"]["command"][1]) if lifecycle else 0
        assert workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= drain_s + before_s + 10


def test_probes_ask_what_may_be_asked_without_a_token(rendered: Rendered) -> None:
    for workload in rendered.workloads:
        found = container(workload)
        probes = {name: found[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
        assert {each["path"] for each in probes.values()} == set(HEALTH)
        assert probes["readiness"]["path"] == "/health/ready"
        ports = {each["name"]: each["containerPort"] for each in found["ports"]}
        listen = environment(workload)["PUSHGATE_MANAGEMENT__LISTEN"]
        assert {each["port"] for each in probes.values()} == {"management"}
        assert listen.endswith(f":{ports['management']}")


def test_the_command_is_one_that_there_is(rendered: Rendered) -> None:
    """And each role is run once: all, or api and worker."""
    roles = []
    for workload in rendered.workloads:
        command, bound, _ = cli.app.parse_args(container(workload)["args"], exit_on_error=False, print_error=False)
        assert (command, bound.arguments["config"]) == (serve, Path("/etc/pushgate/pushgate.toml"))
        roles.append(bound.arguments["role"])
    assert roles == (["api", "worker"] if rendered.uses_nats else ["all"])


def test_pushgate_takes_the_configuration(rendered: Rendered, tmp_path: Path) -> None:
    """With the files where the Secrets put them."""
    (config,) = (each["data"]["pushgate.toml"] for each in rendered.of("ConfigMap"))
    (tmp_path / "pushgate.toml").write_text(config)
    (tmp_path / "management.token").write_text("0123456789abcdef0123456789abcdef\n")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "clients-ca.pem")
    server = authority.issue_cert("gateway.example.org")
    server.private_key_pem.write_to_path(tmp_path / "tls.key")
    server.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    places = {"/etc/pushgate": str(tmp_path), "/var/lib/pushgate": str(tmp_path)}
    for workload in rendered.workloads:
        mounted = {each["mountPath"] for each in container(workload)["volumeMounts"]}
        environ = environment(workload)
        for place, here in places.items():
            assert place in mounted or place not in "".join(environ.values())
            environ = {name: value.replace(place, here) for name, value in environ.items()}
        settings = load(tmp_path / "pushgate.toml", environ=environ)
        assert (settings.api.auth, settings.spool.is_shared) == ("mtls", rendered.uses_nats)
        assert settings.delivery.drain_s == float(environ["PUSHGATE_DELIVERY__DRAIN_S"])
        assert settings.management.listen == environ["PUSHGATE_MANAGEMENT__LISTEN"]
        assert len(settings.management.token()) == 32
