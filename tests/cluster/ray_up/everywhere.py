"""Run a task on every node of the cluster that this machine heads, and print who did what."""

import json

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def place() -> tuple[str, str]:
    """Return the address of the node, and of the raydrop that is there."""
    import raydrop

    return ray.util.get_node_ip_address(), str(raydrop.__file__)


ray.init("auto", log_to_driver=False)
task = ray.remote(num_cpus=0)(place)
found = {}
for node in ray.nodes():
    if node["Alive"]:
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        address, module = ray.get(task.options(scheduling_strategy=strategy).remote(), timeout=60)
        found[address] = {"raydrop": module, "resources": node["Resources"]}
print("FOUND", json.dumps(found))
