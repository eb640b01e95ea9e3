"""Where steps meet the platforms: the workspace's folders, the event spool, MLflow and DVC."""
