"""A company's own servers, in a namespace of the cluster: git that asks for a password and S3 that asks for keys, both
at port 443 with certificates of the company's own authority."""

from __future__ import annotations

import json
import os
import secrets
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.platform import GAPGATE, KFP, Platform, forwarded, until

COMPANY = "company"
REPOSITORY = f"https://git.{COMPANY}.svc/images.git"
S3 = f"https://s3.{COMPANY}.svc"
PLAIN_S3 = f"http://s3.{COMPANY}.svc:8333"
_SERVER = Path(__file__).with_name("git_over_https.py")
_NAMES = ",".join(f"DNS:{name}.{COMPANY}.svc" for name in ("git", "s3")) + ",IP:127.0.0.1"


@dataclass
class Company:
    """The servers as the tests reach them."""

    folder: Path
    git_url: str
    s3_url: str
    git_password: str = field(default_factory=lambda: secrets.token_hex(16))
    s3_key: str = field(default_factory=lambda: secrets.token_hex(10))
    s3_secret: str = field(default_factory=lambda: secrets.token_hex(20))

    @property
    def authority(self) -> Path:
        """The certificate of the company's authority."""
        return self.folder / "ca.crt"

    @property
    def keys(self) -> dict[str, str]:
        """Variables with the keys to S3."""
        return {"AWS_ACCESS_KEY_ID": self.s3_key, "AWS_SECRET_ACCESS_KEY": self.s3_secret}

    def s3(self) -> Any:
        """A client of the company's S3."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.s3_url,
            verify=str(self.authority),
            region_name="us-east-1",
            aws_access_key_id=self.s3_key,
            aws_secret_access_key=self.s3_secret,
        )

    def make_bucket(self, name: str) -> bool:
        """Make a bucket, where there is none of that name; False while S3 does not answer."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self.s3().create_bucket(Bucket=name)
        except ClientError as error:
            return error.response["Error"]["Code"].startswith("BucketAlready")
        except BotoCoreError:
            return False
        return True

    def objects(self, bucket: str) -> list[str]:
        """Names of the objects in a bucket, up to a thousand."""
        return [one["Key"] for one in self.s3().list_objects_v2(Bucket=bucket).get("Contents", ())]

    def run(self, *command: str) -> str:
        """Run a command in the clone of the repository, as the company's user; its output."""
        environment = os.environ | self.keys | {"GIT_SSL_CAINFO": str(self.authority), "GIT_TERMINAL_PROMPT": "0"}
        who = {f"GIT_{role}_{what}": "company" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        done = subprocess.run(
            command, cwd=self.folder / "images", env=environment | who, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def publish(self, source: str) -> str:
        """Put a built-in data set under DVC, push it to both servers, and return the commit."""
        from gapgate.data.sources import write_builtin

        clone = self.folder / "images"
        if not clone.exists():
            self._clone(clone)
        subprocess.run(["rm", "-rf", clone / "data"], check=True)
        (clone / "data").mkdir()
        write_builtin(source, clone / "data")
        dvc = (sys.executable, "-m", "dvc")
        self.run(*dvc, "add", "-q", "data")
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", source, "--allow-empty")
        self.run(*dvc, "push", "-q")
        self.run("git", "push", "-q", self.git_url.replace("//", f"//company:{self.git_password}@"), "HEAD:master")
        return self.run("git", "rev-parse", "HEAD")

    def _clone(self, clone: Path) -> None:
        clone.mkdir()
        self.run("git", "init", "-qb", "master")
        dvc = (sys.executable, "-m", "dvc")
        self.run(*dvc, "init", "-q")
        self.run(*dvc, "remote", "add", "-q", "-d", "company", "s3://images/dvc")
        self.run(*dvc, "remote", "modify", "company", "endpointurl", S3)
        # From here S3 is reached through a port of this machine.
        self.run(*dvc, "remote", "modify", "--local", "company", "endpointurl", self.s3_url)
        self.run(*dvc, "remote", "modify", "--local", "company", "ssl_verify", str(self.authority))


@contextmanager
def company_of(platform: Platform, folder: Path) -> Iterator[Company]:
    """The company's servers and the platform's ConfigMaps with its authority, for the time of the block."""
    with ExitStack() as stack:
        company = Company(folder, "", "")
        _certificates(folder)
        image = platform.kubectl("-n", GAPGATE, "get", "deployment", "mlflow", "-o", "jsonpath={..image}").split()[0]
        s3_image = platform.kubectl("-n", KFP, "get", "deployment", "seaweedfs", "-o", "jsonpath={..image}").split()[0]
        made = [*_pods(company, image, s3_image), *_bundles(company)]
        content = json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
        stack.callback(platform.kubectl, "delete", "-f", "-", "--ignore-not-found", text=content)
        platform.kubectl("apply", "-f", "-", text=content)
        platform.kubectl("-n", COMPANY, "wait", "pod", "--all", "--for=condition=Ready", "--timeout=5m")
        company.git_url = _secure(stack.enter_context(forwarded(COMPANY, "git", 443))) + "/images.git"
        company.s3_url = _secure(stack.enter_context(forwarded(COMPANY, "s3", 443)))
        until(lambda: company.make_bucket("images"), 120)
        yield company


def _secure(url: str) -> str:
    return url.replace("http://", "https://")


def _certificates(folder: Path) -> None:
    """Make the authority and one certificate for both servers."""
    new = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    authority = ("-subj", "/CN=company authority", "-keyout", "ca.key", "-out", "ca.crt")
    server = ("-subj", "/CN=company", "-addext", f"subjectAltName={_NAMES}", "-addext", "basicConstraints=CA:FALSE")
    signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-keyout", "tls.key", "-out", "tls.crt")
    for command in ((*new, *authority), (*new, *server, *signed)):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)


def _bundles(company: Company) -> Iterator[dict[str, Any]]:
    """The ConfigMap with the public authorities and the company's, in both namespaces."""
    public = Path(ssl.get_default_verify_paths().cafile or ssl.get_default_verify_paths().openssl_cafile)
    bundle = (public.read_text() if public.exists() else "") + company.authority.read_text()
    for namespace in (GAPGATE, KFP):
        yield {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "gapgate-certificates", "namespace": namespace},
            "data": {"ca.crt": bundle},
        }


def _pods(company: Company, image: str, s3_image: str) -> Iterator[dict[str, Any]]:
    credentials = [{"accessKey": company.s3_key, "secretKey": company.s3_secret}]
    identities = [{"name": "company", "credentials": credentials, "actions": ["Admin"]}]
    files = {name: (company.folder / name).read_text() for name in ("tls.crt", "tls.key")}
    files |= {"git": f"company:{company.git_password}", "s3.json": json.dumps({"identities": identities})}
    meta = {"namespace": COMPANY}
    yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": COMPANY}}
    files["git.py"] = _SERVER.read_text()
    yield {"apiVersion": "v1", "kind": "Secret", "metadata": {**meta, "name": "company"}, "stringData": files}
    ports_of_s3 = ("-s3.port=8333", "-s3.port.https=443")
    tls = ("-s3.cert.file=/company/tls.crt", "-s3.key.file=/company/tls.key", "-s3.config=/company/s3.json")
    small = ("-master.volumeSizeLimitMB=64", "-master.volumePreallocate=false", "-volume.max=100")
    commands = {
        "git": (image, ["python", "/company/git.py"]),
        "s3": (s3_image, ["/usr/bin/weed", "server", "-dir=/tmp", "-filer", "-s3", *ports_of_s3, *tls, *small]),
    }
    for name, (image_of, command) in commands.items():
        container = {
            "name": name,
            "image": image_of,
            "command": command,
            "volumeMounts": [{"name": "company", "mountPath": "/company", "readOnly": True}],
            "readinessProbe": {"tcpSocket": {"port": 443}, "periodSeconds": 2},
        }
        # Port 443 itself: that is what a policy sees, whatever the port of the Service.
        spec = {
            "containers": [container],
            "securityContext": {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]},
            "volumes": [{"name": "company", "secret": {"secretName": "company"}}],
            "terminationGracePeriodSeconds": 1,
        }
        labels = {"company": name}
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": {**meta, "name": name, "labels": labels}, "spec": spec}
        ports = [{"name": "secure", "port": 443}, *([{"name": "plain", "port": 8333}] if name == "s3" else [])]
        service = {"selector": labels, "ports": ports}
        yield {"apiVersion": "v1", "kind": "Service", "metadata": {**meta, "name": name}, "spec": service}
