"""Wait until the database has the schema of this image's MLflow, which the job mlflow-migrate gives it; with
basic-auth, that of its users too.

Several servers that start on an empty or older database would else all try to change it, or fail and be started again
with longer and longer pauses.
"""

import os
import time
from collections.abc import Callable

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from mlflow.store.db.utils import _get_latest_schema_revision, _get_schema_version
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import SQLAlchemyError

_CONNECT_TIMEOUT_S = 5
"""The kernel's own is two minutes where nothing answers at an address."""


def engine_of(address: str) -> Engine:
    """The database at an address, with a limit on the time that a connection takes."""
    return create_engine(address, connect_args={"connect_timeout": _CONNECT_TIMEOUT_S})


def wait(what: str, wanted: str | None, find: Callable[[], str | None]) -> None:
    """Return once `find` gives the schema `wanted`; each new state is printed."""
    said = ""
    while True:
        try:
            found = find()
        except SQLAlchemyError as error:
            # Its text may hold the address with the password.
            state = f"the database does not answer: {type(error).__name__}"
        else:
            if found == wanted:
                return
            state = f"the schema of {what} is {found}, not {wanted}; mlflow-migrate has not ended"
        if state != said:
            print(said := state, flush=True)
        time.sleep(2)


def users_schema(engine: Engine) -> str | None:
    """The schema of the tables of basic-auth's users; None where there are none."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "alembic_version_auth"})
        return context.get_current_revision()


store = engine_of(os.environ["MLFLOW_BACKEND_STORE_URI"])
wait("MLflow", _get_latest_schema_revision(), lambda: _get_schema_version(store))
if os.environ.get("MLFLOW_AUTH_CONFIG_PATH"):
    from mlflow.server.auth import auth_config
    from mlflow.server.auth.db.utils import _get_alembic_config

    users = engine_of(auth_config.database_uri)
    scripts = ScriptDirectory.from_config(_get_alembic_config(auth_config.database_uri))
    wait("basic-auth", scripts.get_current_head(), lambda: users_schema(users))
