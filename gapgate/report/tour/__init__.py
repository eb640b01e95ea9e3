"""The convolution tour of `gapgate look`: what a kernel or a trained network makes of one image."""
