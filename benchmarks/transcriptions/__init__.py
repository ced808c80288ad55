"""Papers' formulas written down as they stand, to be timed against; used by `benchmarks/train.py`.

No layer is shared with the package. Modalities go through one after the other, attention is
softmax(q kᵀ) v in three steps, and every modality is resampled to the size of the first: what an
author's first code does. They are for timing alone: initial values are torch's, and nothing is
checked.
"""
