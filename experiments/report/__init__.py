"""``report``: one self-contained HTML file that shows a run, or compares the runs below a folder."""
