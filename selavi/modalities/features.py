"""Features: vectors that something else has made of a clip; nothing of a recording is read."""

import numpy as np

from selavi.modalities.modality import Modality

FEATURES = Modality(
    dtype=np.float32,
    shape=lambda config: (config.features.num_dims,),
    value=lambda streams, facts, window, config: streams.vector,
    example=lambda shape, generator: generator.standard_normal(shape, np.float32),
    missing=("no_features", "the head judges by features alone, and there are none of this clip"),
    file=lambda config: config.features.file,
)
