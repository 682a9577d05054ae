"""What a policy and a model are worth, measured on posts whose label is known. Neither role imports this room.

golden          golden sets: posts with known labels, from a file
binomial        exact intervals of a rate
attacks         what an author writes around a post to turn its verdict
drawing         words drawn into a picture
judging         judges many posts against policies
kept            the model's answers, kept between runs
figures         precision, recall, AUC, calibration, per clause and per slice
tested          a test of policies against their golden sets
plots           plots of figures
tested_page     the page of a test
flips           how many verdicts of a golden set each attack flips
"""
