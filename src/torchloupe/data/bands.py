"""Parts of an upright body as bands of rows."""

BANDS = {"head": (0.0, 0.13), "torso": (0.13, 0.53), "legs": (0.53, 1.0)}
"""Rows of an upright body that fills the height, as shares of it.

Source: the proportions of Drillis and Contini 1966, as Winter 2009 gives them (chin at 0.870 and hips at 0.530 of the height,
measured from the ground), doi:10.1002/9780470549148: the hips lie 0.47 below the top.
"""
