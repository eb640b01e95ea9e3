"""Training throughput on the CPU: Gapgate, Keras, and plain PyTorch with a DataLoader."""
