"""The image's commands and the files that run it: Compose, Kubernetes, Quadlet.

Each is checked against the schema of its format, and the relay is run with the options that it
gives, on other ports. The image itself is built by tests/packaging/test_image.py.
"""

from __future__ import annotations

import configparser
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose

from acebase_ipc.relay.limits import Limits
from tests.integration.relay_process import DEADLINE, TWISTD, Twistd

PROJECT = Path(__file__).resolve().parents[2]
CONTRIB = PROJECT / "contrib"
KUBERNETES = CONTRIB / "kubernetes"
COMPOSE = CONTRIB / "docker" / "compose.yaml"
QUADLET = CONTRIB / "podman" / "acebase-ipc.container"

VERSIONS = ("1.28", "1.37")
"""The oldest and the newest release of Kubernetes whose schemas there are."""

STOP_SECONDS = 10
"""In which a relay has to end."""

SECRET = "secret"

LOOPBACK = r"tcp6:0:interface=\:\:1"
"""A free port."""


def instruction_text(name: str) -> str:
    """Return the value of an instruction of the Dockerfile."""
    text = PROJECT.joinpath("Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    (value,) = re.findall(rf"^{name} (.*)$", text, re.MULTILINE)
    return str(value)


def instruction(name: str) -> Any:
    """Return the value of an instruction of the Dockerfile that is written as JSON."""
    return json.loads(re.sub(r"^[^\[]*", "", instruction_text(name)))


def manifests() -> dict[str, Any]:
    """Return the manifests of Kubernetes by their kinds."""
    texts = (each.read_text(encoding="utf-8") for each in KUBERNETES.glob("*.yaml"))
    return {each["kind"]: each for each in map(yaml.safe_load, texts)}


def compose() -> dict[str, Any]:
    """Return the only service of the Compose file."""
    file = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    (service,) = file["services"].values()
    return dict(service)


def quadlet() -> configparser.ConfigParser:
    """Return the sections of the Quadlet file."""
    parser = configparser.ConfigParser(interpolation=None, strict=True, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(QUADLET.read_text(encoding="utf-8").replace("\\\n", " "))
    return parser


def pod() -> dict[str, Any]:
    """Return the pod of the Deployment."""
    return dict(manifests()["Deployment"]["spec"]["template"]["spec"])


@pytest.fixture
def places(tmp_path: Path) -> Mapping[str, str]:
    """What stands for the ports and paths that the relay has in a container."""
    for name in ("token", "admin-token"):
        tmp_path.joinpath(name).write_text(SECRET)
        tmp_path.joinpath(name).chmod(0o600)
    return {
        "/run/secrets/acebase-ipc-token": str(tmp_path / "token"),
        "/run/secrets/acebase-ipc": str(tmp_path),
        "/var/lib/acebase-ipc": str(tmp_path / "state"),
        "tcp6:9163": LOOPBACK,
        "tcp6:9164": LOOPBACK,
        "tcp:9164:interface=127.0.0.1": LOOPBACK,
    }


def placed(options: list[str], places: Mapping[str, str]) -> list[str]:
    """Return *options* with other ports and paths."""
    for inside, outside in places.items():
        options = [each.replace(inside, outside) for each in options]
    return options


def status(url: str, token: str | None = None) -> int:
    """Return the status of the answer to a GET."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with urlopen(Request(url, headers=headers), timeout=DEADLINE) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code


def running(options: list[str]) -> Twistd:
    """Return the relay of the image with these *options*."""
    _, supervise, _, *arguments = instruction("ENTRYPOINT")
    command = (sys.executable, "-m", "acebase_ipc", supervise, TWISTD)
    return Twistd(*arguments, *options, command=command)


def urls(relay: Twistd) -> tuple[str, str]:
    """Return where the peers connect to, and the admin endpoint."""
    relay.wait_for("ready", lambda log: "#info] ready" in log)
    (peers,) = re.findall(r"listening on ws(://[^\s;]+)", relay.log)
    (admin,) = re.findall(r"the admin endpoint is (http://\S+)", relay.log)
    return f"http{peers}", admin


def test_the_image_is_healthy_while_its_relay_serves(places: Mapping[str, str]) -> None:
    health = instruction("HEALTHCHECK")
    assert health[:2] == ["acebase-ipc", "--admin"]
    with running(placed(instruction("CMD"), places)) as relay:
        _, admin = urls(relay)
        command = [sys.executable, "-m", "acebase_ipc", *health[1:]]
        command[command.index("http://127.0.0.1:9164")] = admin
        healthy = subprocess.run(command, timeout=DEADLINE, capture_output=True)
        relay.stop()
        ended = subprocess.run(command, timeout=DEADLINE, capture_output=True)

    assert (healthy.returncode, ended.returncode) == (0, 3), healthy.stderr


def test_both_names_are_one_file() -> None:
    # In an unpacked source distribution, the link is a copy.
    assert PROJECT.joinpath("Containerfile").read_bytes() == (
        PROJECT.joinpath("Dockerfile").read_bytes()
    )


def test_compose_accepts_its_file() -> None:
    file = PyCompose.from_yaml(COMPOSE.read_text(encoding="utf-8"))

    file.validate_secrets()
    file.validate_volumes()
    file.validate_networks()


def test_compose_runs_one_confined_relay_of_this_image() -> None:
    service = compose()

    assert service["scale"] == 1
    assert (COMPOSE.parent / service["build"] / "Dockerfile").exists()
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["stop_grace_period"] == "15s"
    (secret,) = service["secrets"]
    assert f"/run/secrets/{secret}" in instruction("CMD")
    (volume,) = service["volumes"]
    assert volume.partition(":")[2] in instruction("CMD")
    assert service["ulimits"]["nofile"] >= Limits().max_connections * 1.5


@pytest.mark.parametrize(
    "kind", ["Deployment", "NetworkPolicy", "PodDisruptionBudget", "Secret", "Service"]
)
def test_kubernetes_accepts_the_manifests(kind: str) -> None:
    for version in VERSIONS:
        kubernetes_validate.validate(manifests()[kind], version, strict=True)


def test_the_kustomization_names_all_manifests() -> None:
    listed = manifests()["Kustomization"]["resources"]

    assert sorted(["kustomization.yaml", *listed]) == sorted(
        each.name for each in KUBERNETES.glob("*.yaml")
    )


def test_kubernetes_runs_one_relay_at_a_time() -> None:
    deployment = manifests()["Deployment"]["spec"]

    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}
    assert pod()["terminationGracePeriodSeconds"] > STOP_SECONDS
    assert not pod()["enableServiceLinks"]


def test_the_pod_is_confined() -> None:
    user, _ = instruction_text("USER").split(":")
    (container,) = pod()["containers"]

    assert pod()["securityContext"]["runAsNonRoot"]
    assert pod()["securityContext"]["runAsUser"] == int(user)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert mounted.keys() == {each["name"] for each in pod()["volumes"]}


def test_the_parts_of_kubernetes_find_each_other() -> None:
    parts = manifests()
    labels = parts["Deployment"]["spec"]["template"]["metadata"]["labels"]
    (container,) = pod()["containers"]
    named = {each["name"] for each in container["ports"]}

    for selector in (
        parts["Deployment"]["spec"]["selector"]["matchLabels"],
        parts["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        parts["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        parts["Service"]["spec"]["selector"],
    ):
        assert selector.items() <= labels.items()
    service = parts["Service"]
    monitor = parts["ServiceMonitor"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert {each["targetPort"] for each in service["spec"]["ports"]} == named
    assert {each["port"] for each in monitor["endpoints"]} <= {
        each["name"] for each in service["spec"]["ports"]
    }
    allowed = [
        each["port"] for rule in parts["NetworkPolicy"]["spec"]["ingress"] for each in rule["ports"]
    ]
    assert set(allowed) == named
    secret = parts["Secret"]
    assert {each["secret"]["secretName"] for each in pod()["volumes"] if "secret" in each} == {
        secret["metadata"]["name"]
    }
    (endpoint,) = monitor["endpoints"]
    credentials = endpoint["authorization"]["credentials"]
    assert credentials["name"] == secret["metadata"]["name"]
    assert credentials["key"] in secret["stringData"]
    directory = "/run/secrets/acebase-ipc"
    options = " ".join(container["args"])
    assert all(f"{directory}/{name} " in options for name in secret["stringData"])


def test_the_probes_and_prometheus_are_answered(places: Mapping[str, str]) -> None:
    (container,) = pod()["containers"]
    (monitor,) = manifests()["ServiceMonitor"]["spec"]["endpoints"]
    deadline = time.monotonic() + DEADLINE
    with running(placed(container["args"], places)) as relay:
        ports = dict(zip(("peers", "admin"), urls(relay), strict=True))
        for probe in ("livenessProbe", "readinessProbe"):
            get = container[probe]["httpGet"]
            while status(ports[get["port"]] + get["path"]) != 200:
                assert time.monotonic() < deadline
        metrics = ports[monitor["port"]] + monitor["path"]
        assert (status(metrics), status(metrics, SECRET)) == (401, 200)


def test_the_relay_does_not_start_with_the_tokens_of_the_manifest(
    places: Mapping[str, str], tmp_path: Path
) -> None:
    for name, token in manifests()["Secret"]["stringData"].items():
        tmp_path.joinpath(name).write_text(token)
    (container,) = pod()["containers"]

    with running(placed(container["args"], places)) as relay:
        assert relay.wait_ended() != 0
        assert "token" in relay.last_line


def test_podman_runs_a_confined_relay_on_the_port_of_systemd(places: Mapping[str, str]) -> None:
    container = quadlet()["Container"]
    options = shlex.split(container["Exec"])
    secret, _, rights = container["Secret"].partition(",")

    assert options[:2] == ["--port", "systemd:"]
    assert container["Network"] == "none"
    assert container["Notify"] == container["ReadOnly"] == container["NoNewPrivileges"] == "true"
    assert container["DropCapability"] == "all"
    assert f"/run/secrets/{secret}" in options
    user, group = instruction_text("USER").split(":")
    assert rights == f"uid={user},gid={group},mode=0400"
    assert container["HealthCmd"] == shlex.join(instruction("HEALTHCHECK"))
    assert quadlet()["Unit"]["Requires"] == "acebase-ipc.socket"
    # All options but the port are those of the image.
    assert sorted(options[2:]) == sorted(instruction("CMD")[2:])
