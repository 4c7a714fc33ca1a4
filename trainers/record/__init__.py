"""The files that a run leaves in its output folder: log lines, run.json, results.json, predictions.csv, checkpoints."""
