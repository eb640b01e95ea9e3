"""MLflow: the spool of what a run reports, its runs, the registry, and TensorBoard's files."""
