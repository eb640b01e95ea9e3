"""Records that cannot be changed unnoticed: certificate, receipt, golden images, seal and package."""
