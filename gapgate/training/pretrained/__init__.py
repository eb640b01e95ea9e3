"""Pretrained features, and the linear head on them."""
