"""The KFP graph and the command line."""
