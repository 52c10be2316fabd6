"""The diagnosis of a pose model over a data set: study, attribution, errors, dependency, and stored runs side by side."""
