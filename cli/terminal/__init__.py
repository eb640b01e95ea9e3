"""Output on the terminal: progress, tables and summaries."""
