"""Features of a whole corpus, computed by any number of processes and machines: into the store, or as plain files.

A deterministic plan cuts the corpus into parts of equal duration; a part is done when its file is there. So workers need not know of each other, and what a
killed one left undone is done by whoever comes next.
"""

from headwater.extraction.run import Outcome, extract

__all__ = ["Outcome", "extract"]
