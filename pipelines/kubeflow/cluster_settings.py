"""Settings of a cluster for each step: the content of `infra/pipeline.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from components.catalog import RESOLVE, TASKS
from gapgate.errors import SettingsError
from gapgate.settings import parse
from gapgate.settings.base import Count, Section
from gapgate.settings.overrides import read_yaml
from gapgate.text import redacted
from pipelines.container_images import built

Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[kKMGTP]i?)?$")]
"""Quantity in Kubernetes' notation: `500m` is half a core, `4Gi` is 4 × 2³⁰ bytes."""
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
"""Name of a Kubernetes object."""
Image = Annotated[str, Field(pattern=r"^[^\s:@]+(:[0-9]+/[^\s:@]+)?(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?$")]
"""Name of a container image, with a tag or, better, a digest."""


class Images(Section):
    """Container images of the steps."""

    step: Image = Field(default_factory=lambda: built("step"))
    """Image of the steps without torch; by default the one that `make images` builds of this code."""
    train: Image = Field(default_factory=lambda: built("train"))
    """Image of augment and train, with torch."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """Kubernetes' rule for when a node pulls an image."""
    pull_secrets: tuple[Name, ...] = ()
    """Secrets with the credentials of the container registry."""

    @model_validator(mode="after")
    def _pinned(self) -> Images:
        for name in ("step", "train"):
            image = getattr(self, name)
            # The part after the last slash: a registry's port (host:5000/name) has a colon too.
            if "@" not in image and (":" not in image.rpartition("/")[2] or image.endswith(":latest")):
                raise ValueError(f"{name}: {image} names no version; give it a tag other than latest, or a digest")
        return self


class Toleration(Section):
    """Toleration of a taint, so that a step may run on a node that has it."""

    key: str
    """The taint's key."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """Exists: any value of the taint; Equal: only `value`."""
    value: str = ""
    """The taint's value, for the operator Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute", ""] = ""
    """The taint's effect; empty: any."""

    @model_validator(mode="after")
    def _sensible(self) -> Toleration:
        if self.operator == "Exists" and self.value:
            raise ValueError(f"operator Exists takes no value, {self.value!r} is given; write operator: Equal")
        return self


class Place(Section):
    """Resources, nodes, retries and environment of a step."""

    cpu_request: Quantity = "500m"
    """Cores that a node must have free for the step."""
    cpu_limit: Quantity = "2"
    """Most cores that the step may use."""
    memory_request: Quantity = "1Gi"
    """Memory that a node must have free for the step."""
    memory_limit: Quantity = "4Gi"
    """Most memory that the step may use; with more it is killed."""
    shared_memory: Quantity | None = None
    """Size of /dev/shm, which counts towards `memory_limit`; None: 64 MiB."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints that a node may have."""
    timeout_s: Count = 3_600
    """Timeout of one try, in seconds."""
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    """Retries; a training resumes from its last checkpoint on the workspace."""
    backoff_s: Count = 30
    """Seconds before the first retry; doubled before each further one."""
    secrets: dict[Name, dict[str, str]] = Field(default_factory=dict)
    """Secret → key in it → environment variable; a pod waits until the Secret is there."""
    optional_secrets: dict[Name, dict[str, str]] = Field(default_factory=dict)
    """The same for Secrets that may be absent; their variables are then not set."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the step's pod."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Environment variables that hold no secrets."""


class Workspace(Section):
    """A volume that all steps share: reports for MLflow until they are sent, checkpoints, receipts."""

    claim: Name
    """Name of the volume's PersistentVolumeClaim."""
    mount_path: Annotated[str, Field(pattern=r"^/.+")] = "/gapgate"
    """Folder in the containers at which the volume is mounted."""


class User(Section):
    """User and group that the steps run as."""

    run_as_user: Count = 65_532
    """User id; 0 is refused."""
    run_as_group: Count = 65_532
    """Group id."""


class ClusterSettings(Section):
    """The whole of `infra/pipeline.yaml`."""

    namespace: Name = "gapgate"
    """Namespace of the runs in a KFP for several users; a KFP for one user ignores it."""
    service_account: Name = "gapgate-pipeline"
    """Kubernetes service account of the steps."""
    images: Images = Field(default_factory=Images)
    """Container images."""
    certificates: Name | None = None
    """ConfigMap with `ca.crt`, the certificates of every authority that the steps trust: a company's own and the public
    ones; None: those of the images."""
    tracking_uri: Annotated[str, Field(pattern=r"^https?://")]
    """URL of the MLflow server inside the cluster."""
    workspace: Workspace
    """The volume that the steps share."""
    user: User = User()
    """User and group that the steps run as."""
    run_ttl_s: Count = 604_800
    """Seconds after which the pods of an ended run are deleted; KFP and MLflow keep its record."""
    defaults: Place = Place()
    """Place of every step, except for what `steps` changes."""
    steps: dict[str, Place] = Field(default_factory=dict)
    """Step → its own values; secrets, labels and environment are added to those of `defaults`."""

    @classmethod
    def from_file(cls, path: Path) -> ClusterSettings:
        """Read the settings of a cluster from a YAML file.

        Raises:
            SettingsError: it is missing, not YAML, or has an unknown name or a value out of range.
        """
        try:
            content = read_yaml(path.read_bytes(), str(path)) or {}
        except OSError as error:
            raise SettingsError(f"cannot read {path}: {error.strerror}; name the file with --cluster") from None
        return parse(cls, content, path.name)

    @field_validator("tracking_uri")
    @classmethod
    def _without_credentials(cls, uri: str) -> str:
        if redacted(uri) != uri:
            raise ValueError(
                "the URL holds a user or a password, which every pod would show; leave them out, and put them into a "
                "Secret as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        return uri

    @model_validator(mode="after")
    def _known_steps(self) -> ClusterSettings:
        for name in self.steps:
            if name not in TASKS:
                raise ValueError(f"steps.{name} is no step; there are {', '.join(TASKS)}")
        return self

    def place(self, step: str) -> Place:
        """The place of a step: `defaults` with the step's own values. Without own values resolve has those of ingest,
        since it asks the same repository with the same Secret."""
        own = self.steps.get(step) or (self.steps.get("ingest") if step == RESOLVE else None)
        if own is None:
            return self.defaults
        # Only what the file sets: a field's default in `steps` must not undo the value in `defaults`.
        changes = {name: getattr(own, name) for name in own.model_fields_set}
        for name in ("secrets", "optional_secrets", "labels", "environment"):
            changes[name] = getattr(self.defaults, name) | getattr(own, name)
        return self.defaults.model_copy(update=changes)
