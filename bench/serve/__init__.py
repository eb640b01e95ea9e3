"""The REST service beside a bare server and other ways to serve the same model."""
