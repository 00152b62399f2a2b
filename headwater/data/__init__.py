"""Corpora: what is spoken, by whom, in which split, with which labels. Readers, splits, trials, frame labels, lengths
and the demo corpus."""
