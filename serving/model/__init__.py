"""The model that is served: its package, the registry that names it, and the predictions."""
