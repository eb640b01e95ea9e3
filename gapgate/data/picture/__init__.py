"""The path from an image file to upright pixels of 8 bits in sRGB."""
