"""The figures of an evaluation, each with its interval where it has one."""
