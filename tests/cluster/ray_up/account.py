"""An account of the simulated AWS: makes what an owner makes first, and says what is there.

Run on the client, as ``account.py make KEY.pub`` or ``account.py show``; prints JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import boto3

from ray_up.machines import SUBNET


def make(public_key: Path) -> dict[str, str]:
    """Make a network, a group that admits its own members, a key and profiles.

    Returns:
        What stands for the placeholders of cluster.yaml.
    """
    ec2, iam = boto3.client("ec2"), boto3.client("iam")
    network = ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
    zone = "us-east-1a"
    subnet = ec2.create_subnet(VpcId=network, CidrBlock=SUBNET, AvailabilityZone=zone)["Subnet"]
    group = ec2.create_security_group(GroupName="mine", Description="-", VpcId=network)["GroupId"]
    within = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[within])
    ec2.import_key_pair(KeyName="mine", PublicKeyMaterial=public_key.read_bytes())
    head, worker = (
        iam.create_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Arn"]
        for name in ("head", "worker")
    )
    return {
        "FILL_IN_REGION": "us-east-1",
        "FILL_IN_ZONES": zone,
        "FILL_IN_IMAGE_ID": "ami-12c6146b",
        "FILL_IN_KEY_NAME": "mine",
        "FILL_IN_SECURITY_GROUP_ID": group,
        "FILL_IN_SUBNET_ID": subnet["SubnetId"],
        "FILL_IN_PROFILE_ARN": head,
        "FILL_IN_WORKER_PROFILE_ARN": worker,
    }


def show() -> dict[str, Any]:
    """Return what a cluster may have made, and its machines."""
    ec2, iam = boto3.client("ec2"), boto3.client("iam")
    reservations = ec2.describe_instances()["Reservations"]
    return {
        "groups": ec2.describe_security_groups()["SecurityGroups"],
        "keys": [key["KeyName"] for key in ec2.describe_key_pairs()["KeyPairs"]],
        "roles": [role["RoleName"] for role in iam.list_roles()["Roles"]],
        "profiles": [
            profile["InstanceProfileName"]
            for profile in iam.list_instance_profiles()["InstanceProfiles"]
        ],
        "machines": [_machine(each) for group in reservations for each in group["Instances"]],
    }


def _machine(instance: dict[str, Any]) -> dict[str, Any]:
    tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
    return {
        "address": instance.get("PrivateIpAddress", ""),
        "state": instance["State"]["Name"],
        "kind": tags.get("ray-node-type", ""),
        "type": instance["InstanceType"],
        "market": instance.get("InstanceLifecycle", "on-demand"),
        "groups": [group["GroupId"] for group in instance["SecurityGroups"]],
        "profile": instance.get("IamInstanceProfile", {}).get("Arn", ""),
    }


if __name__ == "__main__":
    answer = make(Path(sys.argv[2])) if sys.argv[1] == "make" else show()
    print(json.dumps(answer))
