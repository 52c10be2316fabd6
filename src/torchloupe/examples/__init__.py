"""Example data sets that torchloupe makes itself."""
