"""The mini suite: small data sets of icons and emoji by many hands, so that everything runs without a download."""
