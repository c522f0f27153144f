"""The manifest for Kubernetes: what would keep its pods from training."""

from __future__ import annotations

import pathlib
import re
from typing import Any

from absl import flags
import pytest
import yaml

from dynashare_jax import runs as main
from dynashare_jax.cli import train  # noqa: F401 (defines the flags)
from dynashare_jax.distributed import cluster

ROOT = pathlib.Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "launch" / "gke_jobset.yaml"
PAGE = ROOT / "docs" / "launch" / "gke.md"

# The fields of the manifest, as the schema of JobSet 0.12.0 has them, which
# holds that of pods. The manifest was checked against all of it by hand.
CONTAINER = {
  "name": str,
  "image": str,
  "command": [str],
  "args": [str],
  "ports": [{"containerPort": int}],
  "env": [{"name": str, "value": str, "valueFrom": {"fieldRef": {"fieldPath": str}}}],
  "resources": {
    "requests": {"cpu": str, "memory": str},
    "limits": {"memory": str, "nvidia.com/gpu": int, "google.com/tpu": int},
  },
  "volumeMounts": [{"name": str, "mountPath": str}],
}
POD = {
  "restartPolicy": str,
  "terminationGracePeriodSeconds": int,
  "nodeSelector": {
    "cloud.google.com/gke-accelerator": str,
    "cloud.google.com/gke-spot": str,
    "cloud.google.com/gke-tpu-accelerator": str,
    "cloud.google.com/gke-tpu-topology": str,
  },
  "containers": [CONTAINER],
  "volumes": [
    {
      "name": str,
      "persistentVolumeClaim": {"claimName": str},
      "emptyDir": {"medium": str, "sizeLimit": str},
    }
  ],
}
JOB = {
  "parallelism": int,
  "completions": int,
  "completionMode": str,
  "backoffLimit": int,
  "podFailurePolicy": {
    "rules": [
      {"action": str, "onExitCodes": {"containerName": str, "operator": str, "values": [int]}}
    ]
  },
  "template": {"spec": POD},
}
JOBSET = {
  "apiVersion": str,
  "kind": str,
  "metadata": {"name": str},
  "spec": {
    "failurePolicy": {
      "maxRestarts": int,
      "rules": [{"name": str, "action": str, "onJobFailureReasons": [str]}],
    },
    "network": {"enableDNSHostnames": bool, "publishNotReadyAddresses": bool},
    "replicatedJobs": [{"name": str, "replicas": int, "template": {"spec": JOB}}],
  },
}


def _unknown(found: Any, known: Any, where: str = "") -> list[str]:
  """Places of what a schema does not know or that has another type."""
  if isinstance(known, dict) and isinstance(found, dict):
    return [
      place
      for name, value in found.items()
      for place in (
        _unknown(value, known[name], f"{where}/{name}") if name in known else [f"{where}/{name}"]
      )
    ]
  if isinstance(known, list) and isinstance(found, list):
    return [
      place for i, value in enumerate(found) for place in _unknown(value, known[0], f"{where}/{i}")
    ]
  return [] if type(found) is known else [where]


@pytest.fixture(name="jobset")
def _jobset():
  return yaml.safe_load(MANIFEST.read_text())


def _parts(jobset):
  job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
  pod = job["template"]["spec"]
  return job, pod, pod["containers"][0]


def _expanded(jobset, index: int) -> dict[str, str]:
  """The program's flags as Kubernetes hands them to a pod."""
  _, _, container = _parts(jobset)
  values = {v["name"]: v.get("value") for v in container["env"]} | {
    "JOB_COMPLETION_INDEX": str(index),
    "JOBSET_NAME": jobset["metadata"]["name"],
  }
  given = [
    re.sub(r"\$\((\w+)\)", lambda m: values[m[1]], argument) for argument in container["args"]
  ]
  return dict(argument.removeprefix("--").split("=", 1) for argument in given)


def test_the_manifest_has_known_fields_only(jobset):
  assert _unknown(jobset, JOBSET) == []
  assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
  jobset["spec"]["failurePolicy"]["maxRestart"] = 1
  _parts(jobset)[0]["parallelism"] = "2"
  assert _unknown(jobset, JOBSET) == [
    "/spec/failurePolicy/maxRestart",
    "/spec/replicatedJobs/0/template/spec/parallelism",
  ]


def test_the_pods_find_each_other(jobset):
  """Every pod has its number, and the name of the first that JobSet gives."""
  job, _, container = _parts(jobset)
  workers = jobset["spec"]["replicatedJobs"][0]
  assert jobset["spec"]["network"] == {"enableDNSHostnames": True, "publishNotReadyAddresses": True}
  assert workers["replicas"] == 1 and job["completionMode"] == "Indexed"
  count = job["parallelism"]
  assert job["completions"] == count > 1
  name = jobset["metadata"]["name"]
  port = container["ports"][0]["containerPort"]
  for index in range(count):
    given = _expanded(jobset, index)
    place = cluster.Place(given["coordinator"], int(given["processes"]), int(given["process_id"]))
    assert cluster.check(place)
    host = f"{name}-{workers['name']}-0-0.{name}"
    assert place == (f"{host}:{port}", count, index)
    for flag in given:
      assert flag.startswith("config.") or flag in flags.FLAGS, flag
  (label,) = [
    v["valueFrom"]["fieldRef"]["fieldPath"] for v in container["env"] if v["name"] == "JOBSET_NAME"
  ]
  assert label == "metadata.labels['jobset.sigs.k8s.io/jobset-name']"
  assert container["command"] == ["python", "-m", "dynashare_jax.main"]
  assert main.find_dataset(pathlib.Path(_expanded(jobset, 0)["config"]).stem)


def test_what_starts_again_on_kubernetes(jobset):
  """Any failed pod restarts all, but for the user's error, which ends all."""
  job, pod, container = _parts(jobset)
  assert job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
  (rule,) = job["podFailurePolicy"]["rules"]
  assert rule == {
    "action": "FailJob",
    "onExitCodes": {"containerName": container["name"], "operator": "In", "values": [2]},
  }
  policy = jobset["spec"]["failurePolicy"]
  assert policy["maxRestarts"] >= 10
  (rule,) = policy["rules"]
  assert rule["action"] == "FailJobSet"
  assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
  assert pod["terminationGracePeriodSeconds"] >= 60


def test_what_the_pods_share(jobset):
  _, pod, container = _parts(jobset)
  mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
  volumes = {v["name"]: v for v in pod["volumes"]}
  assert mounts.keys() == volumes.keys()
  assert "persistentVolumeClaim" in volumes["shared"]
  assert mounts["memory"] == "/dev/shm"
  given = _expanded(jobset, 0)
  (cache,) = [v["value"] for v in container["env"] if v["name"] == "XDG_CACHE_HOME"]
  for path in (given["workdir"], given["config.data_dir"], cache):
    assert path.startswith(mounts["shared"] + "/")


def test_the_pages_fragment_for_tpus():
  page = PAGE.read_text()
  fragment = yaml.safe_load(
    re.search(r"```yaml\n(.*?)```", page.split("\n## TPUs")[1], re.DOTALL)[1]
  )
  assert _unknown(fragment, POD) == []
  chips = fragment["containers"][0]["resources"]["limits"]["google.com/tpu"]
  topology = fragment["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
  rows, columns = map(int, topology.split("x"))
  assert rows * columns // chips == 4 and "`parallelism` 4" in page


def test_the_pages_claim_is_the_manifests(jobset):
  _, pod, _ = _parts(jobset)
  page = PAGE.read_text()
  claim = yaml.safe_load(
    re.search(r"```yaml\n(apiVersion: v1\nkind: Pers.*?)```", page, re.DOTALL)[1]
  )
  assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
  (wanted,) = [
    v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v
  ]
  assert claim["metadata"]["name"] == wanted
