"""Training: the loop, what it needs (optimizers, batches, augmentation, checkpoints) and the Model artifact."""
