"""What golden sets show of a policy and a model, and how many of their verdicts attacks flip.

expected       what a label says of a verdict under a whole policy set
classified     many posts with their verdicts, as CSV, JSON or a page
attacks        what an author writes around a post to turn its verdict
drawing        words drawn into a picture
figures        precision, recall, AUC, calibration, per clause and per slice
tested         a test of policies against their golden sets
plots          plots of figures
tested_page    the page of a test
thumbnails     pictures of a post for a page
flips          how many verdicts of a golden set each attack flips
"""
