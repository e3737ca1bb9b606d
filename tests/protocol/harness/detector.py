"""Speech detectors whose opinion is scripted."""

import numpy as np


class Loudness:
    """Takes everything loud for speech, once it has been for two frames: the real one is not sure at once, either."""

    def __init__(self) -> None:
        self._loud = 0

    def probability(self, frame: np.ndarray) -> float:
        assert frame.shape == (512,)
        assert frame.dtype == np.float32
        self._loud = self._loud + 1 if float(np.abs(frame).mean()) > 0.02 else 0
        return 0.95 if self._loud > 1 else 0.02
