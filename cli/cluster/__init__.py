"""Commands that run the pipeline on a cluster."""
