"""The MLflow model registry: versions and their aliases, a lock on them, and the logged model that a version names."""
