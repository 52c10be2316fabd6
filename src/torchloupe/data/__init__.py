"""What a data set is made of, and how a training goes: types only."""
