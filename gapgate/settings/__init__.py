"""Settings: the sections of `params.yaml` with their defaults and limits, and `--set`."""
