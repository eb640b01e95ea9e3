"""Runs on a cluster: compiling, submitting, following and reading them."""
