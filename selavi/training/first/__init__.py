"""The labels that the encoders learn first: of heads on crafted features, or of a table that somebody brings."""
