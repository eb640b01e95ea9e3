"""What must not happen to the REST service, tried: damaged and huge inputs, signals, overload, slow clients."""
