"""The mini suite: small data sets that the project draws itself, so that everything runs without a download."""
