"""What a person sees on the terminal: progress, tables and summaries."""
