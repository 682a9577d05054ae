"""What a policy and a model are worth, measured on posts whose label is known. Neither role imports this room.

golden          golden sets: posts with known labels, from a file
posts           a post as people write it down, with files for pictures
binomial        exact intervals of a rate
attacks         what an author writes around a post to turn its verdict
drawing         words drawn into a picture
flips           how many verdicts of a golden set each attack flips
"""
