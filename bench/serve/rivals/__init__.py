"""The servers that the service is measured against; some run in an environment of their own."""
