"""launch/kubernetes: the Job inside has Kubernetes' own schema, the JobSet around it the fields that it has."""

import jsonschema
import kubernetes_validate
import pytest
import yaml

from alignment.settings.compose import compose_config, split_arguments
from tests.conftest import REPOSITORY

KUBERNETES = "1.33"
MANIFEST = REPOSITORY / "launch/kubernetes/jobset.yaml"
# jobset.x-k8s.io/v1alpha2 (config/components/crd/bases of kubernetes-sigs/jobset): what the manifest uses of it
JOBSET = {
    "type": "object", "required": ["apiVersion", "kind", "metadata", "spec"], "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"}, "kind": {"const": "JobSet"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object", "additionalProperties": False, "required": ["replicatedJobs"],
            "properties": {
                "network": {
                    "type": "object", "additionalProperties": False,
                    "properties": {"enableDNSHostnames": {"type": "boolean"}, "subdomain": {"type": "string"}},
                },
                "failurePolicy": {
                    "type": "object", "additionalProperties": False,
                    "properties": {"maxRestarts": {"type": "integer"}},
                },
                "replicatedJobs": {
                    "type": "array",
                    "items": {
                        "type": "object", "additionalProperties": False, "required": ["name", "template"],
                        "properties": {
                            "name": {"type": "string"}, "replicas": {"type": "integer"},
                            "template": {"type": "object", "required": ["spec"]},
                        },
                    },
                },
            },
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def jobset() -> dict:
    return yaml.safe_load(MANIFEST.read_text())


def test_the_manifest_keeps_both_schemas(jobset):
    jsonschema.validate(jobset, JOBSET)
    for one in jobset["spec"]["replicatedJobs"]:
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": one["name"]}, **one["template"]}
        kubernetes_validate.validate(job, KUBERNETES, strict=True)
    job["spec"]["template"]["spec"]["containers"][0]["resourcs"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, KUBERNETES, strict=True)


def test_pods_are_as_many_as_torchrun_waits_for_and_find_the_first(jobset):
    (one,) = jobset["spec"]["replicatedJobs"]
    spec, name = one["template"]["spec"], jobset["metadata"]["name"]
    command = spec["template"]["spec"]["containers"][0]["command"]
    assert spec["completions"] == spec["parallelism"] == 2 and "--nnodes=2" in command
    assert f"--rdzv-endpoint={name}-{one['name']}-0-0.{name}:29500" in command
    gpus = spec["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert f"--nproc-per-node={gpus}" in command


def test_its_recipe_is_one_of_ours(jobset, tmp_path):
    command = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]["command"]
    overrides, _ = split_arguments(command[command.index("alignment.run") + 1 :])
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pairs.jsonl").write_text("{}")
    here = {"model.path": tmp_path, "data.path": tmp_path / "pairs.jsonl"}
    compose_config([*overrides, *(f"{key}={path}" for key, path in here.items())])
