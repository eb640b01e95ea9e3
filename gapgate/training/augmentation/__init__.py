"""Augmentation: its operations, and the policy that applies them."""
