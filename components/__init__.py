"""The steps of the pipeline, one module each: `run(settings, inputs, out_dir, tracker) -> Artifact`.

MLflow and DVC live here. Steps never import each other; what they share is in `components.platform`.
"""
