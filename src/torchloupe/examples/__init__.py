"""Example data sets that torchloupe makes itself, with known truth, for the demonstrations and the tests."""
