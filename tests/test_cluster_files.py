"""Cluster files: ours are sound, and each fault that is planted is named by its own sentence."""

from __future__ import annotations

import copy
import functools
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from raydrop import cli
from raydrop.cluster.check import check_file, ray_version
from raydrop.cluster.check.kuberay import kuberay_problems
from raydrop.cluster.check.launcher import (
    COMMANDS,
    HEAD_KEYS,
    NODE_KEYS,
    PROVIDER_KEYS,
    PROVIDERS,
    launcher_problems,
)
from raydrop.cluster.check.versions import install_problems, installed_rays, tag_of
from raydrop.errors import ConfigError

ROOT = Path(__file__).parent.parent
AWS, GCP = ROOT / "cluster.yaml", ROOT / "deploy" / "cluster-gcp.yaml"
LOCAL, RAYJOB = ROOT / "deploy" / "cluster-local.yaml", ROOT / "deploy" / "rayjob.yaml"
FILES = [AWS, GCP, LOCAL, RAYJOB]
LAUNCHED = [AWS, GCP, LOCAL]
REMOVED = object()
PLACEHOLDER = re.compile(r"FILL_IN_\w+")

Keys = tuple[str | int, ...]


@functools.cache
def _parsed(file: Path) -> Any:
    return yaml.safe_load(PLACEHOLDER.sub("mine", file.read_text()))


def filled(file: Path) -> dict[str, Any]:
    """Return a file's content with a value for each placeholder."""
    # Through JSON, so that what was one by an anchor is two.
    content: dict[str, Any] = json.loads(json.dumps(_parsed(file)))
    return content


def planted(file: Path, keys: Keys, value: Any) -> dict[str, Any]:
    """Return a file's content with one value set, or removed."""
    content = filled(file)
    place: Any = content
    for key in keys[:-1]:
        place = place[key]
    if value is REMOVED:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return content


def sentences(folder: Path, content: Any) -> list[str]:
    """Return what is said about a content, once it is a file."""
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(content))
    return [str(problem) for problem in check_file(path)]


def dotted(keys: Keys) -> str:
    return re.sub(r"\.\[", "[", ".".join(f"[{k}]" if isinstance(k, int) else k for k in keys))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_our_files_lack_nothing_but_their_owners_values(file: Path, tmp_path: Path) -> None:
    assert check_file(file, template=True) == []
    left = check_file(file)
    assert left
    assert all(problem.left_to_fill for problem in left)
    names = set(PLACEHOLDER.findall(yaml.safe_dump(yaml.safe_load(file.read_text()))))
    assert {problem.found for problem in left} == names
    assert sentences(tmp_path, filled(file)) == []


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_our_files_name_the_ray_of_the_package_and_no_package_index(file: Path) -> None:
    text = file.read_text()
    pins = (ROOT / "constraints.txt").read_text()
    (pinned,) = re.findall(r"^ray==(\S+)", pins, re.MULTILINE)
    (line,) = re.findall(r'"(ray\[tune\][^"]*)"', (ROOT / "pyproject.toml").read_text())
    assert set(re.findall(r"(?:ray:|raydrop:|\[default\]==)(\d[\d.]*\d)", text)) == {pinned}
    assert Requirement(line).specifier.contains(pinned)
    assert pinned == ray_version()
    assert not re.search(r"index-url|find-links|pypi|\.whl", text)


def _missing() -> Iterator[tuple[Path, Keys]]:
    """Yield every key whose omission inherits a default of Ray's."""
    for file, provider in zip(LAUNCHED, PROVIDERS, strict=True):
        for key in COMMANDS:
            yield file, (key,)
        for key in PROVIDER_KEYS[provider]:
            yield file, ("provider", key)
        yield file, ("auth", "ssh_user")
    for file, provider, worker in ((AWS, "aws", "gpu_worker"), (GCP, "gcp", "gpu_worker")):
        yield file, ("max_workers",)
        yield file, ("auth", "ssh_private_key")
        for name in ("head", worker):
            for key in NODE_KEYS[provider]:
                yield file, ("available_node_types", name, "node_config", key)
        yield file, ("available_node_types", "head", "node_config", HEAD_KEYS[provider][0])


@pytest.mark.parametrize(("file", "keys"), [*_missing()], ids=lambda v: getattr(v, "name", None))
def test_a_missing_key_is_named_with_what_ray_does_without(
    file: Path, keys: Keys, tmp_path: Path
) -> None:
    found = sentences(tmp_path, planted(file, keys, REMOVED))
    own = [each for each in found if each.startswith(f"{dotted(keys)}: Expected this key, found")]
    assert len(own) == 1
    assert "so that" in own[0]


HEAD: Keys = ("available_node_types", "head")
WORKER: Keys = ("available_node_types", "gpu_worker", "node_config")
START: Keys = ("head_start_ray_commands", 1)
JOIN: Keys = ("worker_start_ray_commands", 1)
CLUSTER: Keys = ("spec", "rayClusterSpec")
KUBEHEAD: Keys = (*CLUSTER, "headGroupSpec")
POD: Keys = (*CLUSTER, "workerGroupSpecs", 0, "template", "spec")
CONTAINER: Keys = (*POD, "containers", 0)
HEAD_START = "ray start --head --num-cpus=0"
SSH = {"FromPort": 22, "ToPort": 22, "IpProtocol": "tcp", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}

FAULTS: dict[str, tuple[Path, Keys, Any, str]] = {
    # Ray's own schema and checks.
    "typo": (AWS, ("setup_comands",), [], "a key that Ray knows, found 'setup_comands'; did you"),
    "odd-key": (AWS, ("zzz",), 1, "remove it"),
    "half-a-gpu": (AWS, (*HEAD, "resources", "GPU"), 0.5, "0.5 is not of type 'integer'"),
    "no-name": (AWS, ("cluster_name",), REMOVED, "'cluster_name' is a required property"),
    "no-head": (AWS, ("head_node_type",), "boss", "must be one of `available_node_types`"),
    "few-workers": (AWS, ("available_node_types", "gpu_worker", "min_workers"), 9, "is smaller"),
    "no-container": (AWS, ("docker", "container_name"), REMOVED, "container & image name"),
    "on-premise-types": (
        LOCAL,
        ("available_node_types",),
        {"a": {"resources": {}, "node_config": {}}},
        "not supported",
    ),
    "no-head-ip": (LOCAL, ("provider", "head_ip"), REMOVED, "supply a `head_ip`"),
    "no-image": (
        AWS,
        ("docker",),
        {
            "head_image": f"rayproject/ray:{ray_version()}-py311-cpu",
            "worker_image": f"rayproject/ray:{ray_version()}-py311-gpu",
            "container_name": "raydrop",
            "run_options": ["--env RAY_AUTH_MODE=token"],
        },
        "docker.image: Expected this key, found none, so that the autoscaler never starts a worker",
    ),
    # Versions.
    "latest": (AWS, ("docker", "head_image"), "rayproject/ray:latest", "an image of Ray"),
    "untagged": (AWS, ("docker", "head_image"), "rayproject/ray", "an image of Ray"),
    "digest": (AWS, ("docker", "head_image"), "a/ray@sha256:00", "an image of Ray"),
    "older": (GCP, ("docker", "worker_image"), "rayproject/ray:2.59.0-py311-gpu", "found rayproj"),
    "own-image": (AWS, ("docker", "worker_image"), "me/raydrop:1", "name the Ray of your own so"),
    "python": (AWS, ("docker", "worker_image"), f"r/ray:{ray_version()}-py312", "found py312"),
    "nightly": (
        AWS,
        ("setup_commands", 1),
        "which ray || pip install -U 'ray[default] @ https://x/ray-3.0.0.dev0-cp310-x.whl'",
        "installed, found ray[default] @ https",
    ),
    "unpinned": (AWS, ("worker_setup_commands",), ["pip install ray"], "installed, found ray;"),
    "other-pin": (
        LOCAL,
        ("setup_commands", 2),
        "pip install 'ray[default]==2.52.0'",
        "found ray[default]==2.52.0; write",
    ),
    "nothing-said": (LOCAL, ("setup_commands",), ["true"], "says which Ray the nodes run"),
    # Addresses.
    "dashboard": (AWS, START, f"{HEAD_START} --dashboard-host=0.0.0.0", "a dashboard on loopback"),
    "dashboard-6": (GCP, START, f"{HEAD_START} --dashboard-host ::", "a dashboard on loopback"),
    "dashboard-ip": (LOCAL, START, f"{HEAD_START} --dashboard-host=10.0.0.1", "on loopback"),
    "client-server": (
        AWS,
        START,
        f"{HEAD_START}; python -m ray.util.client.server --host=0.0.0.0",
        "nothing that listens on all addresses",
    ),
    "debugger": (AWS, JOIN, "ray start --ray-debugger-external", "no debugger for other machines"),
    "open-ssh": (
        AWS,
        ("provider", "security_group"),
        {"GroupName": "g", "IpPermissions": [SSH]},
        "0.0.0.0/0, which is the whole world",
    ),
    "open-ssh-6": (
        AWS,
        ("provider", "security_group"),
        {"IpPermissions": [{"Ipv6Ranges": [{"CidrIpv6": "::/0"}]}]},
        "::/0, which is the whole world",
    ),
    "made-group": (AWS, ("provider", "security_group"), {"GroupName": "g"}, "for Ray to make"),
    "metadata": (AWS, (*WORKER, "MetadataOptions"), REMOVED, "one plain request away"),
    # Token.
    "no-token": (AWS, ("file_mounts",), {"~/raydrop": "."}, "the token that every node needs"),
    "not-asked-for": (AWS, ("docker", "run_options"), [], "add --env RAY_AUTH_MODE=token"),
    "mode-off": (
        AWS,
        ("docker", "run_options", 0),
        "--env RAY_AUTH_MODE=disabled",
        "MODE=disabled",
    ),
    "mode-off-here": (LOCAL, JOIN, "RAY_AUTH_MODE=disabled ray start", "found RAY_AUTH_MODE=dis"),
    "token-in-file": (LOCAL, JOIN, "RAY_AUTH_TOKEN=s3cret ray start", "one in RAY_AUTH_TOKEN"),
    # The head.
    "busy-head": (LOCAL, START, "RAY_AUTH_MODE=token ray start --head", "no --num-cpus=0"),
    "nearly-none": (AWS, START, "ray start --head --num-cpus=0.5", "no --num-cpus=0"),
    "busy-node": (AWS, (*HEAD, "resources"), {}, "0, for a head that runs no trials"),
    "spot-head": (
        AWS,
        (*HEAD, "node_config", "InstanceMarketOptions"),
        {"MarketType": "spot"},
        "a head that is not reclaimed",
    ),
    "preemptible-head": (
        GCP,
        (*HEAD, "node_config", "scheduling"),
        [{"preemptible": True}],
        "a head that is not reclaimed",
    ),
    "nothing-started": (AWS, ("worker_start_ray_commands",), ["ray stop"], "a command that starts"),
    "unknown-provider": (
        AWS,
        ("provider", "type"),
        "clowd",
        "one of aws, gcp, local, found 'clowd'",
    ),
    "no-provider-type": (AWS, ("provider", "type"), REMOVED, "one of aws, gcp, local, found none"),
    # KubeRay.
    "kind": (RAYJOB, ("kind",), "RayService", "one of RayJob, RayCluster, found 'RayService'"),
    "empty": (RAYJOB, CLUSTER, {}, "Expected a cluster, found none"),
    "no-entrypoint": (RAYJOB, ("spec", "entrypoint"), REMOVED, "Expected a command, found none"),
    "stays": (RAYJOB, ("spec", "shutdownAfterJobFinishes"), REMOVED, "goes when its study ends"),
    "no-limit": (RAYJOB, ("spec", "activeDeadlineSeconds"), REMOVED, "a limit of time"),
    "ray-version": (RAYJOB, (*CLUSTER, "rayVersion"), "2.59.0", "found '2.59.0'; write rayVersion"),
    "number": (RAYJOB, (*CLUSTER, "rayVersion"), 2.6, "found 2.6; write rayVersion"),
    "kube-image": (RAYJOB, (*CONTAINER, "image"), "rayproject/ray:2.59.0", "an image of Ray"),
    "kube-python": (RAYJOB, (*CONTAINER, "image"), f"r:{ray_version()}-py310", "found py310"),
    "no-auth": (RAYJOB, (*CLUSTER, "authOptions"), REMOVED, "Expected 'token', found None"),
    "auth-off": (RAYJOB, (*CLUSTER, "authOptions", "mode"), "disabled", "found 'disabled'"),
    "mode-env": (
        RAYJOB,
        (*CONTAINER, "env"),
        [{"name": "RAY_AUTH_MODE", "value": "disabled"}],
        "KubeRay sets it by authOptions",
    ),
    "token-env": (
        RAYJOB,
        (*CONTAINER, "env"),
        [{"name": "RAY_AUTH_TOKEN", "value": "s3cret"}],
        "keep it in a Secret",
    ),
    "balancer": (RAYJOB, (*KUBEHEAD, "serviceType"), "LoadBalancer", "found LoadBalancer; keep"),
    "node-port": (RAYJOB, (*KUBEHEAD, "serviceType"), "NodePort", "found NodePort; keep"),
    "service": (
        RAYJOB,
        (*KUBEHEAD, "headService"),
        {"spec": {"type": "NodePort"}},
        "headService.spec.type: Expected ClusterIP",
    ),
    "ingress": (RAYJOB, (*KUBEHEAD, "enableIngress"), True, "no way in from outside"),
    "kube-busy": (RAYJOB, (*KUBEHEAD, "rayStartParams"), {}, "'0', for a head"),
    "host-network": (RAYJOB, (*POD, "hostNetwork"), True, "pods apart from their node"),
    "host-port": (RAYJOB, (*CONTAINER, "ports"), [{"hostPort": 8265}], "no port of the node"),
    "privileged": (
        RAYJOB,
        (*CONTAINER, "securityContext"),
        {"privileged": True},
        "no rights over the node",
    ),
    "no-limits": (RAYJOB, (*CONTAINER, "resources", "limits"), REMOVED, "no cpu and no memory"),
    "no-memory": (RAYJOB, (*CONTAINER, "resources", "requests", "memory"), REMOVED, "no memory"),
    "no-workers": (RAYJOB, (*CLUSTER, "workerGroupSpecs"), [], "a group of workers"),
    "no-containers": (RAYJOB, (*POD, "containers"), [], "Expected a container, found none"),
    "kube-open": (
        RAYJOB,
        (*KUBEHEAD, "loadBalancerSourceRanges"),
        ["0.0.0.0/0"],
        "which is the whole world",
    ),
}


SEVERAL = {
    "no-container": 4,  # nothing says what runs, and the options of containers count for nothing
    "open-ssh": 2,  # the rule, and that a group is left to Ray
    "open-ssh-6": 2,
    "not-asked-for": 2,  # on the head, and on workers
    "mode-off": 3,  # and what it says
}
"""How many sentences a fault has, where it is more than one."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named(name: str, tmp_path: Path) -> None:
    file, keys, value, said = FAULTS[name]
    content = planted(file, keys, value)
    found = sentences(tmp_path, content)
    assert [each for each in found if said in each], found
    assert all(each.endswith(".") and "; " in each and "\n" not in each for each in found)
    assert len(found) == SEVERAL.get(name, 1), found


def test_the_token_may_be_asked_for_where_it_reaches_ray(tmp_path: Path) -> None:
    """Docker's options, the start command, or a shell's start; on the host, not in a container."""
    export = "echo 'export RAY_AUTH_MODE=token' >> ~/.bashrc"
    bare = planted(AWS, ("docker", "run_options"), [])
    assert len(sentences(tmp_path, bare | {"initialization_commands": [export]})) == 2
    assert sentences(tmp_path, bare | {"setup_commands": [export]}) == []
    starts = {
        "head_start_ray_commands": [f"RAY_AUTH_MODE=token {HEAD_START}"],
        "worker_start_ray_commands": ["RAY_AUTH_MODE=token ray start"],
    }
    assert sentences(tmp_path, bare | starts) == []
    own = filled(LOCAL) | {"worker_start_ray_commands": ["ray start"]}
    assert sentences(tmp_path, own) == []
    assert len(sentences(tmp_path, own | {"initialization_commands": []})) == 1


def test_network_keys_may_stand_in_network_interfaces(tmp_path: Path) -> None:
    content = filled(AWS)
    node = content["available_node_types"]["gpu_worker"]["node_config"]
    node["NetworkInterfaces"] = [
        {"SubnetId": node.pop("SubnetIds")[0], "Groups": node.pop("SecurityGroupIds")}
    ]
    assert sentences(tmp_path, content) == []


def test_the_dashboard_of_kuberay_may_listen_where_its_service_looks(tmp_path: Path) -> None:
    params = {"num-cpus": "0", "dashboard-host": "0.0.0.0"}
    content = planted(RAYJOB, (*KUBEHEAD, "rayStartParams"), params)
    assert sentences(tmp_path, content) == []


def test_a_raycluster_is_checked_as_that_of_a_job(tmp_path: Path) -> None:
    job = filled(RAYJOB)
    cluster = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "raydrop"}}
    cluster["spec"] = job["spec"]["rayClusterSpec"]
    assert sentences(tmp_path, cluster) == []
    cluster["spec"]["authOptions"] = {"mode": "disabled"}
    (only,) = sentences(tmp_path, cluster)
    assert only.startswith("spec.authOptions.mode: Expected 'token'")


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("ray stop; ray start --head", []),
        ("which ray || pip install -U ray", ["ray"]),
        ("uv pip install 'ray[tune]~=2.60.0' torch", ["ray[tune]~=2.60.0"]),
        ("python -m pip install ray==1 && pip3 install ray==2", ["ray==1", "ray==2"]),
        ("pip install raydrop ray-lightning xray ~/raydrop 'raytune==2'", []),
        ("pip install -c ~/ray/constraints.txt ./ray", []),
        (
            "pip install https://x/ray-3.0.0.dev0-cp310-cp310-linux.whl",
            ["https://x/ray-3.0.0.dev0"],
        ),
        ("pip install \\\n  ray==2", ["ray==2"]),
        ('pip install "ray', ['"ray']),
    ],
)
def test_what_a_command_installs_as_ray(command: str, found: list[str]) -> None:
    words = installed_rays(command)
    if command.endswith('"ray'):
        return  # a quotation that does not end: read as well as it goes
    assert len(words) == len(found)
    assert all(word.startswith(start) for word, start in zip(words, found, strict=True))


def test_only_the_installed_ray_may_be_installed() -> None:
    assert list(install_problems("x", f"pip install 'ray[default] == {ray_version()}'")) == []
    assert list(install_problems("x", f"pip install ray=={ray_version()}.1"))
    assert tag_of(f"host:5000/a/ray:{ray_version()}") == ray_version()


def _main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["raydrop", "cluster", "check", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return int(exit_.value.code or 0)


def test_the_command_says_what_is_sound_and_what_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(monkeypatch, "--template", *FILES) == 0
    out = capsys.readouterr().out
    assert out.count(f": sound, for Ray {ray_version()}") == len(FILES)
    assert _main(monkeypatch, AWS) == 1
    said = capsys.readouterr()
    assert "provider.region: Expected a value of yours, found FILL_IN_REGION" in said.err
    assert "sound" not in said.out
    sound = tmp_path / "sound.yaml"
    sound.write_text(yaml.safe_dump(filled(LOCAL)))
    missing = tmp_path / "missing.yaml"
    assert _main(monkeypatch, missing, sound) == 1
    said = capsys.readouterr()
    assert "sound.yaml: sound" in said.out
    assert said.err.count("Expected") == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [1", "cannot be read"),
        (b"a: b: c", "cannot be read"),
        (b"\xff\xfe\x00\x81", "cannot be read"),
        (b"!!python/object/apply:os.system ['true']", "cannot be read"),
        (b"", "found neither"),
        (b"- 1\n- 2\n", "found neither"),
        (b"just words", "found neither"),
        (b"provider: {type: aws}\n---\nprovider: {type: aws}\n", "found neither"),
        (None, "No such file"),
    ],
    ids=["unclosed", "colons", "bytes", "object", "empty", "list", "words", "two", "missing"],
)
def test_a_file_that_describes_no_cluster_is_refused_in_a_sentence(
    content: bytes | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "file.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        check_file(path)
    assert _main(monkeypatch, path) == 1
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert said in error


@pytest.mark.parametrize("broken", [None, 1, "text", [1], {"a": None}], ids=repr)
@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_whatever_stands_in_a_key_is_met_with_sentences(file: Path, broken: Any) -> None:
    problems = kuberay_problems if file == RAYJOB else launcher_problems
    for key in filled(file):
        for problem in problems(filled(file) | {key: broken}):
            assert str(problem).endswith(".")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], dict[str, Any]]]:
    """Give an account of a simulated AWS: what it holds that a cluster might have made."""
    moto = pytest.importorskip("moto", reason="moto simulates AWS")
    boto3 = pytest.importorskip("boto3")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with moto.mock_aws():
        ec2, iam = boto3.client("ec2"), boto3.client("iam")

        def account() -> dict[str, Any]:
            reservations = ec2.describe_instances()["Reservations"]
            return {
                "groups": ec2.describe_security_groups()["SecurityGroups"],
                "keys": ec2.describe_key_pairs()["KeyPairs"],
                "roles": iam.list_roles()["Roles"],
                "profiles": iam.list_instance_profiles()["InstanceProfiles"],
                "instances": [i for each in reservations for i in each["Instances"]],
            }

        yield account


def _with_ids(account: dict[str, Any]) -> dict[str, Any]:
    """Return cluster.yaml with a group, a subnet, a key and a profile of a simulated account."""
    import boto3

    ec2, iam = boto3.client("ec2"), boto3.client("iam")
    subnets = ec2.describe_subnets()["Subnets"]
    subnet = next(each for each in subnets if each["AvailabilityZone"] == "us-east-1a")
    group = ec2.create_security_group(GroupName="g", Description="g", VpcId=subnet["VpcId"])
    ec2.create_key_pair(KeyName="k")
    profile = iam.create_instance_profile(InstanceProfileName="p")["InstanceProfile"]
    values = {
        "FILL_IN_REGION": "us-east-1",
        "FILL_IN_ZONES": "us-east-1a",
        "FILL_IN_IMAGE_ID": "ami-12c6146b",
        "FILL_IN_KEY_NAME": "k",
        "FILL_IN_SECURITY_GROUP_ID": group["GroupId"],
        "FILL_IN_SUBNET_ID": subnet["SubnetId"],
        "FILL_IN_PROFILE_ARN": profile["Arn"],
        "FILL_IN_WORKER_PROFILE_ARN": profile["Arn"],
    }
    text = PLACEHOLDER.sub(lambda match: values.get(match[0], "mine"), AWS.read_text())
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def _bootstrapped(content: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config

    config = AWSNodeProvider.fillout_available_node_types_resources(prepare_config(content))
    prepared: dict[str, Any] = bootstrap_aws(config)
    return prepared


def test_ray_makes_nothing_in_an_account_but_the_machines(
    aws: Callable[[], dict[str, Any]],
) -> None:
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    content = _with_ids(aws())
    before = aws()
    config = _bootstrapped(content)
    assert aws() == before
    types = config["available_node_types"]
    assert (types["head"]["resources"]["CPU"], types["gpu_worker"]["resources"]["GPU"]) == (0, 1)
    provider = AWSNodeProvider(config["provider"], "raydrop")
    for node in types.values():
        provider.create_node(copy.deepcopy(node["node_config"]), {}, 1)
    head, worker = sorted(aws()["instances"], key=lambda each: "InstanceLifecycle" in each)
    assert (head.get("InstanceLifecycle"), worker["InstanceLifecycle"]) == (None, "spot")
    for machine in (head, worker):
        (own,) = machine["SecurityGroups"]
        assert own["GroupName"] == "g"
        assert machine["MetadataOptions"]["HttpTokens"] == "required"
    provider.terminate_nodes([head["InstanceId"], worker["InstanceId"]])
    assert {machine["State"]["Name"] for machine in aws()["instances"]} == {"terminated"}


def test_without_a_group_ray_opens_ssh_to_the_world(aws: Callable[[], dict[str, Any]]) -> None:
    """Negative control: what the policy says of Ray's default is so."""
    content = _with_ids(aws())
    for node in content["available_node_types"].values():
        del node["node_config"]["SecurityGroupIds"]
    _bootstrapped(content)
    text = io.StringIO()
    yaml.safe_dump([group["IpPermissions"] for group in aws()["groups"]], text)
    assert "0.0.0.0/0" in text.getvalue()
