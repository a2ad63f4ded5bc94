"""A finished run goes on for more epochs, and one that was killed as it ended is finished."""

ADDED = "trainer.more_epochs=[2]"
COSINE = "optim.schedule=cosine"
