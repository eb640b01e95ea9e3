"""Settings for a cluster of few cores: those of `infra/pipeline.yaml` with requests that its node can give.

`python -m pipelines.kubeflow.small_cluster` prints them for the cluster of the current kubectl context, for `infra/up`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from gapgate.errors import GapgateError, SettingsError
from gapgate.settings import parse
from pipelines.kubeflow.cluster_settings import ClusterSettings, Place
from pipelines.kubeflow.kubernetes_api import Amounts, amount, nodes, text

SHARE = Decimal("0.75")
"""Share of what is free that a step may ask for; KFP's drivers and a second prediction service's pod have the rest."""
LEAST: Amounts = {"cpu": Decimal("0.1"), "memory": Decimal(512 * 2**20)}
"""Smallest request of a step: with less memory, one that imports torch is killed."""


def fitted(content: Mapping[str, Any], free: Amounts) -> dict[str, Any]:
    """The content of `infra/pipeline.yaml` where no step asks for more than a node with `free` can give.

    Raises:
        SettingsError: so little is free that no step would start, or the content does not fit `ClusterSettings`.
    """
    room = {name: value * SHARE for name, value in free.items()}
    if any(room[name] < least for name, least in LEAST.items()):
        raise SettingsError(
            f"the node has {text(free)} free, and three quarters of it are less than a step needs ({text(LEAST)}); "
            "give the cluster more, or stop what runs there"
        )
    cluster = parse(ClusterSettings, content)
    return {
        **content,
        "defaults": {**content.get("defaults", {}), **_smaller(cluster.defaults, room)},
        "steps": {
            step: {**own, **_smaller(cluster.place(step), room)} for step, own in content.get("steps", {}).items()
        },
    }


def _smaller(place: Place, room: Amounts) -> dict[str, str]:
    """Requests of at most the room, and a limit on memory that the node can keep."""
    cpu = min(amount(place.cpu_request), room["cpu"])
    memory = min(amount(place.memory_request), room["memory"])
    limit = max(memory, min(amount(place.memory_limit), room["memory"]))
    found = {"cpu_request": _cores(cpu), "memory_request": _mebibytes(memory), "memory_limit": _mebibytes(limit)}
    if place.shared_memory:
        # It counts towards the limit, and the training needs most of that.
        found["shared_memory"] = _mebibytes(min(amount(place.shared_memory), limit / 4))
    return found


def _cores(value: Decimal) -> str:
    return f"{int(value * 1000)}m"


def _mebibytes(value: Decimal) -> str:
    return f"{int(value / 2**20)}Mi"


def main(argv: list[str] | None = None) -> int:
    """Print the settings; the arguments are the file to start from and the tag of the images on the nodes, which may be
    older than the code here. Returns the exit code."""
    path, tag = sys.argv[1:] if argv is None else argv
    try:
        found = nodes(between_runs=True)
        if not found:
            raise SettingsError("the cluster's nodes cannot be listed; `kubectl get nodes` says why")
        node = max(found, key=lambda each: each.free["cpu"])
        content = fitted(yaml.safe_load(Path(path).read_text()), node.free)
    except GapgateError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    content["images"] = {kind: f"gapgate/{kind}:{tag}" for kind in ("step", "train")}
    print(f"# By infra/up: {path} with what fits on {node.name}, which has {text(node.free)} free.")
    print(yaml.safe_dump(content, sort_keys=False, width=120), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
