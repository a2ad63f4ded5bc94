"""Learning what a person named, on the frozen encoders of a run: `selavi refine`."""
