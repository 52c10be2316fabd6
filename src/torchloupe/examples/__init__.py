"""Made-up data on real photographs, with known truth, for the demonstrations and the tests."""
