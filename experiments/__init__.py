"""Experiments: plan, run, sweep, collect and tabulate runs of ``train.py`` (``python -m experiments.<module>``)."""

import sys

if sys.argv[0] == "-m":  # Python looks for the module that it will run
    from dassl.starting import end_on_ctrl_c

    end_on_ctrl_c(package=__name__)
