"""Honest error estimates of a model from few labels: what to label, how wrong it is, how sure."""
