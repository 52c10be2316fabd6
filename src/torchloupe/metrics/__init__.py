"""Numbers beside every heatmap: how far can a map be trusted? Functions of (probe, batch, maps); nothing here knows a model."""
