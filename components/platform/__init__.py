"""The platforms that steps use: the workspace's folders, the event spool, MLflow and DVC."""
