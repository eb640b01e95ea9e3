"""Predictions for files, in this process or by a server, as a table, CSV, JSON or Parquet."""
