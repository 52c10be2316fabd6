"""Methods by their published names. Each takes (probe, batch, options) and returns Maps."""
