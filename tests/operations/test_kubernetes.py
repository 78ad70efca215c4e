"""The manifests are valid Kubernetes; their commands, endpoints, times and variables are those of the service."""

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from kubernetes_validate import validate

from corank.cli.main import build_app
from corank_continual.streams.arrow_reader import MEMORY
from corank_serve.api.serving import read_serve_settings
from corank_serve.http.serve_settings import ServeSettings
from corank_serve.store.backends.redis import PASSWORD
from corank_serve.store.publish import publish_bundle
from tests.support.configs import shop
from tests.support.kafka_broker import kafka_broker
from tests.support.ports import free_port
from tests.support.service import PROGRAM, metrics_of
from tests.support.shared import derived
from tests.support.stores import opened
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[2] / "examples"
MANIFESTS = EXAMPLES / "operations" / "kubernetes"
FOLLOWERS = [f"Deployment/corank-follow-{what}" for what in ("items", "users", "log")]
PODS = ["Deployment/corank", "CronJob/corank-daily", *FOLLOWERS]
VERSIONS = ("1.31", "1.37")
"""The oldest and the newest version whose schemas are asked."""


def manifests() -> dict[str, Any]:
    """The manifests that the kustomization lists, by kind and name, as kubectl writes them."""
    listed = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    assert sorted(listed) == sorted(
        p.name for p in MANIFESTS.glob("*.yaml") if p.name != "kustomization.yaml"
    )
    documents = [
        one for name in listed for one in yaml.safe_load_all((MANIFESTS / name).read_text(encoding="utf-8"))
    ]
    return by_name(documents)


def by_name(documents: Iterable[Any]) -> dict[str, Any]:
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in documents}


def pod_of(manifest: Any) -> Any:
    """The pod of a Deployment or a CronJob."""
    spec = manifest["spec"]
    return (spec["jobTemplate"]["spec"] if manifest["kind"] == "CronJob" else spec)["template"]["spec"]


def served_settings(args: list[str]) -> ServeSettings:
    """The settings of `corank serve` that arguments make. Raises CycloptsError, ConfigError."""
    _, bound, *_ = build_app().parse_args(args, exit_on_error=False, print_error=False)
    return read_serve_settings(None, {"source": bound.args[0], **bound.kwargs})


def quantity(text: str) -> int:
    """Bytes of a quantity such as 1Gi."""
    return int(text[:-2]) << {"Mi": 20, "Gi": 30}[text[-2:]]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", manifests())
def test_a_manifest_is_valid(name: str, version: str) -> None:
    assert validate(manifests()[name], version, strict=True)


def test_kustomize_renders_what_the_files_have() -> None:
    kustomize = shutil.which("kustomize")
    if kustomize is None:
        pytest.skip("kustomize")
    text = subprocess.run([kustomize, "build", MANIFESTS], capture_output=True, check=True, text=True).stdout
    rendered = by_name(yaml.safe_load_all(text))
    expected = manifests()
    for name in PODS:
        for container in pod_of(expected[name])["containers"]:
            container["image"] = f"registry.example/{container['image']}:0.1.0"
    assert rendered == expected


def test_probes_and_times_fit_the_service() -> None:
    all_of_it = manifests()
    pod = pod_of(all_of_it["Deployment/corank"])
    (container,) = pod["containers"]
    settings = served_settings(container["args"])
    assert settings.port == container["ports"][0]["containerPort"] and settings.host == "0.0.0.0"
    assert settings.allow_host == (all_of_it["Service/corank"]["metadata"]["name"],)
    assert pod["terminationGracePeriodSeconds"] > settings.drain_seconds + settings.stop_seconds + 5
    ready = container["readinessProbe"]
    assert settings.drain_seconds > 2 * ready["periodSeconds"] * ready["failureThreshold"]
    assert settings.workers == int(container["resources"]["requests"]["cpu"])
    assert settings.body_mib * settings.workers * 2**20 < quantity(
        container["resources"]["requests"]["memory"]
    )
    mounts = {Path(mount["mountPath"]) for mount in container["volumeMounts"]}
    assert settings.tokens is not None and {settings.cache, settings.tokens.parent, Path("/tmp")} == mounts


def test_objects_name_each_other() -> None:
    all_of_it = manifests()
    labels = all_of_it["Deployment/corank"]["spec"]["template"]["metadata"]["labels"]
    assert all_of_it["Deployment/corank"]["spec"]["selector"]["matchLabels"] == labels
    assert all_of_it["Service/corank"]["spec"]["selector"] == labels
    assert all_of_it["PodDisruptionBudget/corank"]["spec"]["selector"]["matchLabels"] == labels
    scaler = all_of_it["HorizontalPodAutoscaler/corank"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == all_of_it["Deployment/corank"]["metadata"]["name"]
    assert scaler["minReplicas"] > all_of_it["PodDisruptionBudget/corank"]["spec"]["maxUnavailable"]
    adapter = yaml.safe_load((EXAMPLES / "operations" / "adapter.yaml").read_text(encoding="utf-8"))
    assert scaler["metrics"][0]["pods"]["metric"]["name"] in {rule["name"]["as"] for rule in adapter["rules"]}
    for name in ("CronJob/corank-daily", "Deployment/corank-follow-log"):
        volumes = pod_of(all_of_it[name])["volumes"]
        (claim,) = (
            volume["persistentVolumeClaim"] for volume in volumes if "persistentVolumeClaim" in volume
        )
        assert f"PersistentVolumeClaim/{claim['claimName']}" in all_of_it
    container_file = (EXAMPLES / "serve" / "Containerfile").read_text(encoding="utf-8")
    for name in PODS:
        pod = pod_of(all_of_it[name])
        assert f"USER {pod['securityContext']['runAsUser']}\n" in container_file
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            one["name"] for one in pod["volumes"]
        }
        variables = {one["name"] for one in container.get("env", [])}
        assert variables == ({PASSWORD} if name != "Deployment/corank-follow-log" else set())
        build_app().parse_args(container["args"], exit_on_error=False, print_error=False)


@pytest.mark.parametrize("name", FOLLOWERS)
def test_a_follower_is_found_by_prometheus_and_has_the_memory_that_it_needs(name: str) -> None:
    manifest = manifests()[name]
    labels, selector = manifest["spec"]["template"]["metadata"]["labels"], manifest["spec"]["selector"]
    assert manifest["metadata"]["labels"] == labels == selector["matchLabels"]
    (container,) = pod_of(manifest)["containers"]
    scraped = yaml.safe_load((EXAMPLES / "operations" / "prometheus.yaml").read_text(encoding="utf-8"))
    (job,) = (job for job in scraped["scrape_configs"] if job["job_name"] == "corank-follow")
    kept = [one["regex"] for one in job["relabel_configs"] if one.get("action") == "keep"]
    (port,) = container["ports"]
    assert kept == [labels["app.kubernetes.io/name"], port["name"]]
    assert f"--metrics=0.0.0.0:{port['containerPort']}" in container["args"]
    # several processes would fight for a folder, and a new one ends unless the old one has
    alone = {"replicas": 1, "strategy": {"type": "Recreate"}}.items()
    assert "log" not in name or alone <= manifest["spec"].items()
    assert quantity(container["resources"]["limits"]["memory"]) > 3 * MEMORY // 2


def selected(term: Any) -> list[str]:
    """The followers whose pods a term of an affinity selects."""
    wanted = term["labelSelector"]["matchLabels"].items()
    every = manifests()
    return [
        name for name in FOLLOWERS if wanted <= every[name]["spec"]["template"]["metadata"]["labels"].items()
    ]


def test_the_daily_job_runs_where_its_volume_is() -> None:
    affinity = pod_of(manifests()["CronJob/corank-daily"])["affinity"]["podAffinity"]
    (preferred,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    assert selected(preferred["podAffinityTerm"]) == ["Deployment/corank-follow-log"]


@pytest.mark.parametrize("name", FOLLOWERS)
def test_a_follower_of_the_manifests_starts_serves_metrics_and_ends(name: str, tmp_path: Path) -> None:
    (container,) = pod_of(manifests()[name])["containers"]
    port, (word, command, *args) = free_port(), container["args"]
    with kafka_broker(tmp_path) as broker, opened("lmdb", tmp_path) as store:
        publish_bundle(derived().base / "bundle", store)
        for topic in (command, f"{command}-bad"):
            broker.make_topic(topic)
        shop(tmp_path).rename(tmp_path / "config.yaml")
        (tmp_path / "log").mkdir()
        here = {
            "kafka:9092": broker.servers,
            "redis://redis:6379/0": store.address,
            "0.0.0.0:9100": f"{port}",
        }
        for there, mine in here.items():
            args = [one.replace(there, mine) for one in args]
        process = subprocess.Popen(
            [PROGRAM, word, command, *args], cwd=tmp_path, env=os.environ | {"HOME": str(tmp_path)}
        )

        eventually(lambda: 'corank_follow_lag{partition="0"} 0.0' in metrics_of(process, port))
        process.terminate()
        assert process.wait(PATIENCE) == 0


@pytest.fixture
def service(trained_bundle: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The service as the Deployment starts it, but for its source, its port and where its files lie."""
    (container,) = pod_of(manifests()["Deployment/corank"])["containers"]
    _, _, *args = container["args"]
    tokens = tmp_path / "tokens"
    subprocess.run(
        [PROGRAM, "token", "web", "--tokens", tokens, "--scope", "read"], check=True, capture_output=True
    )
    here = [one.replace("/etc/corank", str(tmp_path)).replace("/var/cache", str(tmp_path)) for one in args]
    port = free_port()
    # it drains until told once more, so that a slow machine sees it do so
    command = [PROGRAM, "serve", trained_bundle, *here, f"--port={port}", "--drain-seconds=300"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(PATIENCE)


def test_the_service_of_the_deployment_starts_answers_its_probes_and_drains(
    service: tuple[subprocess.Popen[str], str],
) -> None:
    process, url = service
    (container,) = pod_of(manifests()["Deployment/corank"])["containers"]

    def status(probe: str) -> int:
        assert process.poll() is None
        try:
            return httpx2.get(url + container[probe]["httpGet"]["path"]).status_code
        except httpx2.HTTPError:
            return 0

    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        eventually(lambda probe=probe: status(probe) == 200)  # type: ignore[misc]
    headers = {"Host": "corank"}
    assert (
        httpx2.get(f"{url}/version", headers=headers).status_code == 401
    )  # Host is allowed, a token is needed
    process.terminate()
    eventually(lambda: status("readinessProbe") == 503)
    assert status("livenessProbe") == 200
    process.terminate()
    process.wait(PATIENCE)
