"""The manifests are valid Kubernetes; their commands, endpoints, times and variables are those of the service."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from kubernetes_validate import validate

from corank.api.serving import read_serve_settings
from corank.cli.main import build_app
from corank.serving.http.serve_settings import ServeSettings
from corank.serving.store.backends.redis import PASSWORD
from tests.support.ports import free_port
from tests.support.service import PROGRAM
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[2] / "examples"
MANIFESTS = EXAMPLES / "operations" / "kubernetes"
VERSIONS = ("1.31", "1.37")
"""The oldest and the newest version whose schemas are asked."""


def manifests() -> dict[str, Any]:
    """The manifests that the kustomization lists, by kind."""
    listed = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    assert sorted(listed) == sorted(
        p.name for p in MANIFESTS.glob("*.yaml") if p.name != "kustomization.yaml"
    )
    documents = [
        one for name in listed for one in yaml.safe_load_all((MANIFESTS / name).read_text(encoding="utf-8"))
    ]
    return {one["kind"]: one for one in documents}


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
@pytest.mark.parametrize("kind", manifests())
def test_a_manifest_is_valid(kind: str, version: str) -> None:
    assert validate(manifests()[kind], version, strict=True)


def test_kustomize_renders_what_the_files_have() -> None:
    kustomize = shutil.which("kustomize")
    if kustomize is None:
        pytest.skip("kustomize")
    text = subprocess.run([kustomize, "build", MANIFESTS], capture_output=True, check=True, text=True).stdout
    rendered = {one["kind"]: one for one in yaml.safe_load_all(text)}
    expected = manifests()
    for kind in ("Deployment", "CronJob"):
        for container in pod_of(expected[kind])["containers"]:
            container["image"] = f"registry.example/{container['image']}:0.1.0"
    assert rendered == expected


def test_probes_and_times_fit_the_service() -> None:
    all_of_it = manifests()
    pod = pod_of(all_of_it["Deployment"])
    (container,) = pod["containers"]
    settings = served_settings(container["args"])
    assert settings.port == container["ports"][0]["containerPort"] and settings.host == "0.0.0.0"
    assert settings.allow_host == (all_of_it["Service"]["metadata"]["name"],)
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
    labels = all_of_it["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert all_of_it["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert all_of_it["Service"]["spec"]["selector"] == labels
    assert all_of_it["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    scaler = all_of_it["HorizontalPodAutoscaler"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == all_of_it["Deployment"]["metadata"]["name"]
    assert scaler["minReplicas"] > all_of_it["PodDisruptionBudget"]["spec"]["maxUnavailable"]
    adapter = yaml.safe_load((EXAMPLES / "operations" / "adapter.yaml").read_text(encoding="utf-8"))
    assert scaler["metrics"][0]["pods"]["metric"]["name"] in {rule["name"]["as"] for rule in adapter["rules"]}
    volumes = pod_of(all_of_it["CronJob"])["volumes"]
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in volumes
        if "persistentVolumeClaim" in volume
    ]
    assert claims == [all_of_it["PersistentVolumeClaim"]["metadata"]["name"]]
    container_file = (EXAMPLES / "serve" / "Containerfile").read_text(encoding="utf-8")
    for kind in ("Deployment", "CronJob"):
        pod = pod_of(all_of_it[kind])
        assert f"USER {pod['securityContext']['runAsUser']}\n" in container_file
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            one["name"] for one in pod["volumes"]
        }
        assert {one["name"] for one in container["env"]} == {PASSWORD}
    build_app().parse_args(container["args"], exit_on_error=False, print_error=False)


@pytest.fixture
def service(trained_bundle: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The service as the Deployment starts it, but for its source, its port and where its files lie."""
    (container,) = pod_of(manifests()["Deployment"])["containers"]
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
    (container,) = pod_of(manifests()["Deployment"])["containers"]

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
