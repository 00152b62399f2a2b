"""Speech encoders on the classes of transformers: settings, weights of every origin, and models with exact lengths."""
