"""Features of images without labels, in files, and what is made of them."""
