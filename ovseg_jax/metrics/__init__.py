"""The confusion matrix and the protocols read off it."""
