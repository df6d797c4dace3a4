"""How good a matte is: scores against a truth, and flags where there is none."""
