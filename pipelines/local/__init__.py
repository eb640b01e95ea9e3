"""Runs on this machine: the compiled graph under KFP's local runners, and what is left of earlier runs."""
