"""Data: from a source of labelled images to arrays of one size in sticky splits."""
