"""The check of an image file before a decoder reads it."""
