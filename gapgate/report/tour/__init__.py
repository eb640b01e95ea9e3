"""The convolution tour of `gapgate look`: the outputs of a kernel or of a trained network for one image."""
