"""The domain: labelled images in, evidence out. No platform (kfp, mlflow, dvc, bentoml) is imported here."""

__version__ = "0.2.0"
