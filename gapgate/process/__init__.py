"""Processes: servers that end with their parent, forks, and the processors and memory that a container grants."""
