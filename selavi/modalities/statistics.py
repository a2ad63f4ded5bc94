"""Statistics of sound: the same waveform as for an encoder, of which numbers are taken that nothing has learned.

After Owens, Wu, McDermott, Freeman and Torralba, Ambient Sound Provides Supervision for Visual Learning (ECCV 2016),
where clusters of such numbers are what the pictures learn.
"""

from dataclasses import replace

from selavi.modalities.audio import AUDIO

STATISTICS = replace(AUDIO, section="audio")
