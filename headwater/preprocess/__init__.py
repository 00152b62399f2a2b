"""What the scripts in `preprocess/` do: features, archives, lengths and alignments, made once and written as plain files."""
