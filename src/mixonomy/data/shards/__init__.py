"""Tar files of images, as WebDataset has them, with an index that gives random access."""
