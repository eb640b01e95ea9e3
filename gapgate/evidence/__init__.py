"""Evidence: measuring a model, judging it, and the records that prove both."""
