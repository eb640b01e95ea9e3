"""Settings: every section of `params.yaml` with its defaults and limits, and `--set`."""
