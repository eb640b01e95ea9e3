"""Promises of the REST service, put to the test: damaged and huge inputs, signals, overload, slow clients."""
