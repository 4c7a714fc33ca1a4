"""Experiments: plan, run, sweep, collect and tabulate runs of ``train.py`` (``python -m experiments.<module>``)."""
