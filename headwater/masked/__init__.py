"""Masked spans of frames are told from what is left: by the number of their cluster (HuBERT), or from among other frames (wav2vec 2.0)."""
