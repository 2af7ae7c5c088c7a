"""Sources, transforms and the loader: everything between a disk (or a seed) and a batch."""
