"""Predictions for files: in this process or by a server, to a table, CSV, JSON or Parquet."""
