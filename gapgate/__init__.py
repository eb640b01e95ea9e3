"""The domain, from labelled images to evidence. It imports no platform (kfp, mlflow, dvc, bentoml)."""

__version__ = "0.2.0"
