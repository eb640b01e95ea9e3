"""Wait until the database has the schema of this image's MLflow, which the job mlflow-migrate gives it.

Several servers that start on an empty or older database would else all try to change it, or fail and be started again
with longer and longer pauses.
"""

import os
import sys
import time

from mlflow.store.db.utils import _get_latest_schema_revision, _get_schema_version
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError

wanted = _get_latest_schema_revision()
engine = create_engine(os.environ["MLFLOW_BACKEND_STORE_URI"])
said = ""
while True:
    try:
        found = _get_schema_version(engine)
    except SQLAlchemyError as error:
        state = (
            f"the database does not answer: {type(error).__name__}"  # its text may hold the address with the password
        )
    else:
        if found == wanted:
            sys.exit(0)
        state = f"the schema is {found}, not {wanted}; mlflow-migrate has not ended"
    if state != said:
        print(said := state, flush=True)
    time.sleep(2)
