"""What lies in deployments/: files that parse, name what exists, and say the same as the code."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
import yaml
from quorra_server.config import load

from tests.support.processes import BIN, RunningServer

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = ROOT / "deployments"
PROGRAMS = {"quorra-server", "quorra-worker", "quorractl"}


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def test_alerts_ask_for_metrics_that_a_server_has(shared_server: RunningServer, api: httpx.Client) -> None:
    api.post("/v1/jobs", json={"type": "t", "payload": {}})
    offered = set(re.findall(r"^# TYPE (\S+)", api.get("/metrics").text, re.MULTILINE))
    rules = [rule for group in _yaml(DEPLOYMENTS / "prometheus/alerts.yml")["groups"] for rule in group["rules"]]

    asked = {name for rule in rules for name in re.findall(r"\bquorra_\w+", rule["expr"])}

    assert asked
    assert set() == {name for name in asked if name not in offered and f"{name}_total" not in offered}
    assert all(rule["annotations"]["summary"] for rule in rules)


@pytest.mark.skipif(not shutil.which("promtool"), reason="there is no promtool on the PATH")
def test_promtool_takes_the_rules_and_the_scrape_configuration() -> None:
    for command in (["check", "rules"], ["check", "config", "--syntax-only"]):
        file = "alerts.yml" if "rules" in command else "scrape.yml"
        done = subprocess.run(
            ["promtool", *command, str(DEPLOYMENTS / "prometheus" / file)], capture_output=True, text=True, check=False
        )
        assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("promtool"), reason="there is no promtool on the PATH")
def test_promtool_takes_what_a_server_exposes(api: httpx.Client) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=api.get("/metrics").text, capture_output=True, text=True, check=False
    )

    assert 0 == done.returncode, done.stdout + done.stderr


def test_the_image_is_made_of_what_is_here() -> None:
    lines = (DEPLOYMENTS / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    text = "\n".join(lines)

    for line in lines:
        if line.startswith("COPY") and "--from" not in line:
            assert (ROOT / shlex.split(line)[1]).exists(), line
    for package in re.search(r"for package in (.*?);", text)[1].split():  # type: ignore[index]
        assert (ROOT / "packages" / package / "pyproject.toml").exists()
    for wheel, version in re.findall(r"/wheels/(\w+)-([\d.]+)-py3", text):
        project = (ROOT / "packages" / wheel.replace("_", "-") / "pyproject.toml").read_text()
        assert f'version = "{version}"' in project
    assert 'CMD ["quorra-server"]' in text
    assert "USER quorra" in text


def test_compose_runs_programs_and_settings_that_exist() -> None:
    services = _yaml(DEPLOYMENTS / "compose.yaml")["services"]
    settings = dict(services["server"]["environment"])
    settings["QUORRA_API_KEY"] = "k" * 32

    load(settings)

    assert {"postgres", "redis", "migrate", "server", "worker"} == services.keys()
    for name in ("migrate", "worker"):
        assert services[name]["command"][0] in PROGRAMS
    assert 2 == services["worker"]["deploy"]["replicas"]
    for service in services.values():
        for needed in service.get("depends_on", []):
            assert needed in services
    jobs = services["worker"]["volumes"][0].partition(":-")[2].partition("}")[0]
    assert (DEPLOYMENTS / jobs / "jobs.py").exists()


def test_the_manifests_of_kubernetes_fit_together() -> None:
    documents = {document["kind"]: document for document in _documents(DEPLOYMENTS / "kubernetes/quorra.yaml")}
    pod = documents["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    assert {"Job", "Deployment", "Service"} == documents.keys()
    assert documents["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert ports == {port["name"]: port["port"] for port in documents["Service"]["spec"]["ports"]}
    assert {"http": 8080, "grpc": 50051} == ports
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    # The variables of service links, such as QUORRA_SERVER_PORT, would be refused as unknown settings.
    pods = [document["spec"]["template"]["spec"] for document in documents.values() if "template" in document["spec"]]
    assert [False, False] == [spec["enableServiceLinks"] for spec in pods]
    load({entry["name"]: entry["value"] for entry in container["env"]})
    done = subprocess.run(
        [str(BIN / container["command"][0]), *container["command"][1:], "--help"], capture_output=True, check=False
    )
    assert 0 == done.returncode


def test_the_probes_and_the_health_check_ask_for_paths_that_answer(api: httpx.Client) -> None:
    text = (DEPLOYMENTS / "Dockerfile").read_text() + (DEPLOYMENTS / "kubernetes/quorra.yaml").read_text()

    paths = set(re.findall(r"/(?:live|ready|health)z", text))

    assert {"/livez", "/readyz"} == paths
    assert {200} == {api.get(path).status_code for path in paths}


def test_the_example_of_settings_is_taken_as_it_stands() -> None:
    lines = [line for line in (ROOT / ".env.example").read_text().splitlines() if line and not line.startswith("#")]

    settings = dict(line.split("=", 1) for line in lines)

    load({**settings, "QUORRA_API_KEY": "k" * 32})


def test_the_workflow_runs_the_one_script_on_each_python_that_the_packages_name() -> None:
    (job,) = _yaml(ROOT / ".github/workflows/ci.yml")["jobs"].values()
    classifiers = (ROOT / "packages/quorra-server/pyproject.toml").read_text()

    assert {"run": "bash .ci/run"} in job["steps"]
    for version in job["strategy"]["matrix"]["python"]:
        assert f"Programming Language :: Python :: {version}" in classifiers


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make on the PATH")
@pytest.mark.parametrize("target", ["build", "test", "dev", "dev-down", "docker-build", "lint", "clean", "db-init"])
def test_each_target_of_the_makefile_is_a_caller_of_something(target: str) -> None:
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stderr
    scripts = re.findall(r"^(\w+) = ", (ROOT / "hatch.toml").read_text(), re.MULTILINE)
    called = re.findall(r"bootstrap\.py (\w+)", done.stdout)
    assert set(called) <= set(scripts)
    assert done.stdout.strip()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze on the PATH")
def test_systemd_takes_the_unit() -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", str(DEPLOYMENTS / "quorra-server.service")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    problems = [line for line in done.stderr.splitlines() if "quorra-server.service" in line]
    # The program is not installed where the unit looks for it; everything else must be right.
    assert [] == [line for line in problems if "/opt/quorra" not in line and "not executable" not in line]


@pytest.mark.skipif(shutil.which("nginx") is None, reason="there is no nginx on the PATH")
def test_nginx_takes_the_configuration(tmp_path: Path) -> None:
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certificate = trustme.CA().issue_cert("queue.example.com")
    certificate.private_key_pem.write_to_path(key)
    certificate.cert_chain_pems[0].write_to_path(chain)
    ours = (DEPLOYMENTS / "nginx" / "quorra.conf").read_text()
    ours = ours.replace("/etc/ssl/queue.example.com.pem", str(chain)).replace(
        "/etc/ssl/queue.example.com.key", str(key)
    )
    whole = tmp_path / "nginx.conf"
    whole.write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{\n{ours}\n}}\n")

    checked = subprocess.run(["nginx", "-t", "-c", str(whole)], capture_output=True, text=True, check=False)

    assert 0 == checked.returncode, checked.stderr
