"""A finished run goes on for more epochs, and one that was killed as it ended is finished."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from selavi.labelling.schedule import labelling_steps
from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder
from selavi.runs.record import read_status
from selavi.training.optim import target_lr
from tests.end_to_end.runs import Train, assert_same_run, bank, losses, stop_at, weights

ADDED = "trainer.more_epochs=[2]"
COSINE = "optim.schedule=cosine"
