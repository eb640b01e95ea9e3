"""Runs on a cluster: compiled for it, submitted, followed and read back."""
