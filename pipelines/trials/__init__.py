"""Many trainings in one process: sweeps, and the measured recipes."""
