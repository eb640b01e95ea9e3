"""MLflow: the spool of what a run reports, its runs, and TensorBoard's files."""
