"""The version of how texts and pictures are prepared for a model. It is part of every score digest.

It rises with each change after which the model may be shown something else of the same post: another colour, another
choice of frames or views, another normal form of a text, another cut into windows. Certificates of thresholds are void
then, as with another model. `tests/unit/test_preparation.py` notices such changes.
"""

from __future__ import annotations

PREPARATION = "colours 1, frames 1, views 1, normal forms 1, windows 1"
