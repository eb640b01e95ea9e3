"""The KFP graph, and runs of it on this machine, on a cluster and in trials."""
