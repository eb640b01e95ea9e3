"""Bring the database to the schema of this image's MLflow; with basic-auth, the tables of its users too.

Several servers that start on an empty database would make those tables at once, and all but one fail.
"""

import os

from mlflow.db import commands as database

# Both are commands of click, which ends the process after one of them unless it is told not to.
database.main(["upgrade", os.environ["MLFLOW_BACKEND_STORE_URI"]], standalone_mode=False)
if os.environ.get("MLFLOW_AUTH_CONFIG_PATH"):
    from mlflow.server.auth import auth_config
    from mlflow.server.auth.db.cli import commands as users

    users.main(["upgrade", "--url", auth_config.database_uri], standalone_mode=False)
