"""Bring the database to the schema of this image's MLflow; with basic-auth, the tables of its users too.

Several servers that start on an empty database would make those tables at once, and all but one fail.
"""

import configparser
import os

from mlflow.db import commands as database

database.main(["upgrade", os.environ["MLFLOW_BACKEND_STORE_URI"]], standalone_mode=False)
if path := os.environ.get("MLFLOW_AUTH_CONFIG_PATH"):
    from mlflow.server.auth.db.cli import commands as users

    config = configparser.ConfigParser()  # as MLflow reads it: % is written %%
    config.read(path)
    users.main(["upgrade", "--url", config["mlflow"]["database_uri"]], standalone_mode=False)
