"""The platform within a company: private data behind a password and keys, an authority of its own, users of MLflow and
artifacts in S3."""

import secrets
import shutil
import time
from urllib.parse import urlsplit

import pytest
import requests
import yaml

from tests.cluster.company import PLAIN_S3, REPOSITORY, S3, company_of
from tests.cluster.platform import GAPGATE, KFP, ROOT, until
from tests.cluster.test_runs import a_digit

DATA_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "GIT_USERNAME", "GIT_PASSWORD")
CLIENT_KEYS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
CERTIFICATES = "gapgate-certificates"


@pytest.fixture(scope="module")
def company(platform, tmp_path_factory):
    with company_of(platform, tmp_path_factory.mktemp("company")) as company:
        yield company


@pytest.fixture
def secret(platform):
    """Makes a Secret that a run or the platform reads; it is gone after the test."""
    made = []

    def make(namespace, name, values):
        platform.kubectl("-n", namespace, "delete", "secret", name, "--ignore-not-found")
        literals = [f"--from-literal={key}={value}" for key, value in values.items()]
        platform.kubectl("-n", namespace, "create", "secret", "generic", name, *literals)
        made.append((namespace, name))

    yield make
    for namespace, name in made:
        platform.kubectl("-n", namespace, "delete", "secret", name, "--ignore-not-found")


def of_the_company(content):
    content["certificates"] = CERTIFICATES
    content["steps"]["ingest"]["optional_secrets"] = {"gapgate-data": {key: key for key in DATA_KEYS}}


def data_of(company, commit):
    return "submit", "--data-repository", REPOSITORY, "--data-rev", commit, "--wait"


def test_private_data_are_read_with_a_password_and_keys_behind_the_companys_authority(platform, company, secret):
    commit = company.publish("digits")
    secret(KFP, "gapgate-data", company.keys | {"GIT_USERNAME": "company", "GIT_PASSWORD": company.git_password})
    done = platform.gapgate(*data_of(company, commit), cluster=platform.changed(of_the_company))
    assert done.code == 0, done.out
    assert platform.mlflow_run(done.run).data.tags["data.revision"] == commit
    assert company.git_password not in done.out + platform.gapgate("logs", done.run, "ingest", "--all").out


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"GIT_PASSWORD": "wrong"}, "it asks for a user and a password, or refuses those given"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_wrong_access_to_private_data_is_told_apart_and_not_tried_again(platform, company, secret, wrong, said):
    commit = company.publish("shapes")
    right = company.keys | {"GIT_USERNAME": "company", "GIT_PASSWORD": company.git_password}
    secret(KFP, "gapgate-data", right | wrong)
    done = platform.gapgate(*data_of(company, commit), "--no-cache", cluster=platform.changed(of_the_company))
    assert done.code == 2, done.out
    assert said in done.out
    step = "resolve" if "GIT_PASSWORD" in wrong else "ingest"
    assert len(platform.pods(done.run, step)) == 1


def test_an_authority_that_no_step_was_told_of_is_named(platform, company, secret):
    def without_certificates(content):
        of_the_company(content)
        del content["certificates"]

    secret(KFP, "gapgate-data", company.keys | {"GIT_USERNAME": "company", "GIT_PASSWORD": company.git_password})
    done = platform.gapgate(
        *data_of(company, company.publish("digits")), cluster=platform.changed(without_certificates)
    )
    assert done.code == 2, done.out
    assert "certificate" in done.out


@pytest.fixture
def production(platform, company, secret, tmp_path, monkeypatch, request):
    """The platform with those components of the overlay `production` that a test names, on a database of its own.
    Afterwards it is as `infra/up` made it."""
    database = f"company_{time.time_ns()}"
    sql = 'PGPASSWORD="$POSTGRES_PASSWORD" psql -h 127.0.0.1 -U mlflow -d mlflow -c "$0"'
    ask_postgres = ("-n", GAPGATE, "exec", "postgres-0", "--", "sh", "-c", sql)
    uri = platform.secret(GAPGATE, "gapgate-mlflow", "MLFLOW_BACKEND_STORE_URI").rpartition("/")[0] + f"/{database}"
    platform.kubectl(*ask_postgres, f"CREATE DATABASE {database}")
    secret(GAPGATE, "company-mlflow", {"MLFLOW_BACKEND_STORE_URI": uri})
    if "artifacts-s3" in request.param:
        secret(GAPGATE, "gapgate-s3", company.keys)
        until(lambda: company.make_bucket("mlflow"))
    try:
        if "basic-auth" in request.param:
            admin = {"auth": ("admin", admin_of_mlflow(secret, uri))}
            user = {"username": "gapgate", "password": secrets.token_hex(16)}
            for namespace in (GAPGATE, KFP):
                secret(namespace, "gapgate-mlflow-client", dict(zip(CLIENT_KEYS, user.values(), strict=True)))
            apply(platform, overlay_in(tmp_path, request.param))
            make = f"{platform.mlflow_url}/api/2.0/mlflow/users/create"
            until(lambda: requests.post(make, json=user, timeout=30, **admin).ok, 120)
            for key, value in zip(CLIENT_KEYS, user.values(), strict=True):
                monkeypatch.setenv(key, value)
        else:
            apply(platform, overlay_in(tmp_path, request.param))
        yield request.param
    finally:
        for key in CLIENT_KEYS:
            monkeypatch.delenv(key, raising=False)
        platform.kubectl("-n", GAPGATE, "delete", "networkpolicy", "mlflow-s3", "--ignore-not-found")
        apply(platform, ROOT / "infra/kubernetes/overlays/this-cluster")
        platform.kubectl(*ask_postgres, f"DROP DATABASE {database} WITH (FORCE)")


def admin_of_mlflow(secret, uri):
    """Make the Secret that MLflow's users begin with; returns the administrator's password."""
    settings = {"default_permission": "READ", "admin_username": "admin", "database_uri": uri.replace("%", "%%")}
    settings["authorization_function"] = "mlflow.server.auth:authenticate_request_basic_auth"
    of_auth = "\n".join(["[mlflow]", *(f"{key} = {value}" for key, value in settings.items())])
    password = secrets.token_hex(16)
    auth = {"basic_auth.ini": of_auth, "MLFLOW_AUTH_ADMIN_PASSWORD": password}
    secret(GAPGATE, "gapgate-mlflow-auth", auth | {"MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32)})
    return password


def overlay_in(folder, components):
    """An overlay over that of `infra/up`, in a copy of the manifests."""
    manifests = folder / "kubernetes"
    shutil.copytree(ROOT / "infra/kubernetes", manifests)
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../this-cluster"],
        "components": [f"../../components/{name}" for name in components],
        "patches": [
            patch(kind, name, f"/spec/template/spec/{place}/0/env/0/valueFrom/secretKeyRef/name", "company-mlflow")
            for kind, name, place in (
                ("Job", "mlflow-migrate", "containers"),
                ("Deployment", "mlflow", "initContainers"),
                ("Deployment", "mlflow", "containers"),
            )
        ],
    }
    if "artifacts-s3" in components:
        # Without its certificate, by the port of SeaweedFS's own, which the guide's table names.
        url = S3 if "certificates" in components else PLAIN_S3
        literals = ["MLFLOW_ARTIFACTS_DESTINATION=s3://mlflow/artifacts", f"MLFLOW_S3_ENDPOINT_URL={url}"]
        settings = {"name": "mlflow", "namespace": GAPGATE, "behavior": "merge", "literals": literals}
        content["configMapGenerator"] = [settings]
        port = urlsplit(url).port or 443
        content["patches"].append(patch("NetworkPolicy", "mlflow-s3", "/spec/egress/0/ports/0/port", port))
    (manifests / "overlays/company").mkdir()
    (manifests / "overlays/company/kustomization.yaml").write_text(yaml.safe_dump(content))
    return manifests / "overlays/company"


def patch(kind, name, path, value):
    change = {"op": "replace", "path": path, "value": value}
    return {"target": {"kind": kind, "name": name}, "patch": yaml.safe_dump([change])}


def apply(platform, overlay):
    platform.kubectl("-n", GAPGATE, "delete", "job", "mlflow-migrate", "--ignore-not-found")
    platform.kubectl("apply", "-k", str(overlay))
    platform.kubectl("-n", GAPGATE, "rollout", "status", "deployment/mlflow", "--timeout=10m")


@pytest.mark.parametrize(
    "production",
    [("artifacts-s3", "basic-auth", "certificates"), ("basic-auth",), ("artifacts-s3",)],
    ids=["together", "users alone", "S3 alone"],
    indirect=True,
)
def test_users_of_mlflow_and_artifacts_in_s3_carry_a_run_from_submit_to_an_answer(platform, company, production):
    has_users, has_s3 = "basic-auth" in production, "artifacts-s3" in production

    def with_them(content):
        if "certificates" in production:
            content["certificates"] = CERTIFICATES
        if has_users:
            content["defaults"]["secrets"] = {"gapgate-mlflow-client": {key: key for key in CLIENT_KEYS}}

    ask = f"{platform.mlflow_url}/api/2.0/mlflow/experiments/get?experiment_id=0"
    until(lambda: requests.get(ask, timeout=30).status_code == (401 if has_users else 200), 120)
    objects = len(company.objects("mlflow")) if has_s3 else 0
    done = platform.submit("--no-cache", cluster=platform.changed(with_them))
    assert done.code == 0, done.out
    assert platform.mlflow_run(done.run).info.status == "FINISHED"
    if has_s3:
        assert len(company.objects("mlflow")) > objects + 5
    print(f"served: {until(lambda: platform.served_version() == platform.champion() == '1'):.0f} s after the run")
    assert platform.predict(a_digit()).status_code == 200
    print(f"whole run: {done.seconds:.0f} s")
