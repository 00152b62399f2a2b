"""What experts are built from: the upstream contract, lengths and masks, the featurizer, pooling."""
