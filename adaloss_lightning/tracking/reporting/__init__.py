"""What the runs of an experiment say: tables, figures and the interactive page."""
