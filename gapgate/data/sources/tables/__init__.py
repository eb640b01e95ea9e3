"""Tables with a row for each image: of paths, of image files or of pixels."""
