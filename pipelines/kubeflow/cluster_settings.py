"""What a cluster gives to each step: `infra/pipeline.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from components.catalog import STEPS
from gapgate.errors import SettingsError
from gapgate.settings.base import Count, Section
from gapgate.settings.sections import parse
from pipelines.container_images import built

Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[kKMGTP]i?)?$")]
"""Of Kubernetes: `500m` is half a core, `4Gi` four gibibytes."""
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
"""Of a Kubernetes object."""
Image = Annotated[str, Field(pattern=r"^[^\s:@]+(:[0-9]+/[^\s:@]+)?(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?$")]
"""Of a container, with a tag or better a digest."""


class Images(Section):
    """The containers that the steps run in."""

    step: Image = Field(default_factory=lambda: built("step"))
    """Of the steps without torch; by default what `make images` builds of this code."""
    train: Image = Field(default_factory=lambda: built("train"))
    """Of augment and train."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When a node fetches an image."""
    pull_secrets: tuple[Name, ...] = ()
    """Secrets of the registry."""

    @model_validator(mode="after")
    def _pinned(self) -> Images:
        for name in ("step", "train"):
            image = getattr(self, name)
            if "@" not in image and (":" not in image.rpartition("/")[2] or image.endswith(":latest")):
                raise ValueError(f"{name}: {image} names no version; give it a tag other than latest, or a digest")
        return self


class Toleration(Section):
    """Of a taint that a node has."""

    key: str
    """The taint's key."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """Whether its value matters."""
    value: str = ""
    """Its value, where that matters."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute", ""] = ""
    """The taint's effect; empty: any."""

    @model_validator(mode="after")
    def _sensible(self) -> Toleration:
        if self.operator == "Exists" and self.value:
            raise ValueError(f"operator Exists takes no value, {self.value!r} is given; write operator: Equal")
        return self


class Place(Section):
    """Where a step runs, and with what."""

    cpu_request: Quantity = "500m"
    """Cores that a node must have free."""
    cpu_limit: Quantity = "2"
    """Most cores."""
    memory_request: Quantity = "1Gi"
    """Memory that a node must have free."""
    memory_limit: Quantity = "4Gi"
    """Most memory; a step that takes more is killed."""
    shared_memory: Quantity | None = None
    """Size of /dev/shm, out of `memory_limit`; without it, 64 MiB."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels that the node must have."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints that the node may have."""
    timeout_s: Count = 3_600
    """Seconds after which a try is ended."""
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    """Further tries; a training goes on from its last checkpoint on the workspace."""
    backoff_s: Count = 30
    """Seconds before the first further try; twice as long before each next one."""
    secrets: dict[Name, dict[str, str]] = Field(default_factory=dict)
    """Secret → key in it → environment variable."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Of the step's pod."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Variables without secrets."""


class Workspace(Section):
    """A volume that all steps share: reports for MLflow until they are sent, checkpoints, receipts."""

    claim: Name
    """Its PersistentVolumeClaim."""
    mount_path: Annotated[str, Field(pattern=r"^/.+")] = "/gapgate"
    """Where the steps see it."""


class User(Section):
    """Who the steps run as."""

    run_as_user: Count = 65_532
    """User id; 0 is refused."""
    run_as_group: Count = 65_532
    """Group id."""


class ClusterSettings(Section):
    """The whole of `infra/pipeline.yaml`."""

    namespace: Name = "gapgate"
    """Where runs are, in a KFP for several users; a KFP for one ignores it."""
    service_account: Name = "gapgate-pipeline"
    """Which account the steps run under."""
    images: Images = Field(default_factory=Images)
    """The containers."""
    tracking_uri: Annotated[str, Field(pattern=r"^https?://")]
    """The MLflow server, as the cluster sees it."""
    workspace: Workspace
    """The volume that the steps share."""
    user: User = User()
    """Who the steps run as."""
    run_ttl_s: Count = 604_800
    """Seconds after which the pods of a run that has ended are taken away; KFP and MLflow keep its record."""
    defaults: Place = Place()
    """For each step that `steps` says nothing else of."""
    steps: dict[str, Place] = Field(default_factory=dict)
    """Step → what differs for it; `secrets`, `labels` and `environment` are added to those of `defaults`."""

    @classmethod
    def from_file(cls, path: Path) -> ClusterSettings:
        """Read a file.

        Raises:
            SettingsError: it is missing, not YAML, or has an unknown name or a value out of range.
        """
        try:
            content = yaml.safe_load(path.read_text()) or {}
        except OSError as error:
            raise SettingsError(f"cannot read {path}: {error.strerror}; name the file with --cluster") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
        return parse(cls, content, path.name)

    @model_validator(mode="after")
    def _known_steps(self) -> ClusterSettings:
        for name in self.steps:
            if name not in STEPS:
                raise ValueError(f"steps.{name} is no step; there are {', '.join(STEPS)}")
        return self

    def place(self, step: str) -> Place:
        """What a step gets."""
        own = self.steps.get(step)
        if own is None:
            return self.defaults
        changes = {name: getattr(own, name) for name in own.model_fields_set}
        for name in ("secrets", "labels", "environment"):
            changes[name] = getattr(self.defaults, name) | getattr(own, name)
        return self.defaults.model_copy(update=changes)
