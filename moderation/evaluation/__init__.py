"""What a policy and a model are worth, measured on posts whose label is known. Neither role imports this room.

golden          golden sets: posts with known labels, from a file
posts           a post as people write it down, with files for pictures
binomial        exact intervals of a rate
attacks         what an author writes around a post to turn its verdict
drawing         words drawn into a picture
traffic         the verdicts of a period, and their posts, from the topics
newest          which verdict of a period is the newest of its post
postfile        posts to draw from, in a file
groups          which posts are of equal content
populations     the groups that a sample is drawn from, with their scores
sampling        grids of thresholds, and the order in which a seed draws
drawn           from a population to a sample
samples         posts that were drawn to be labelled, and their file
labels          what people say of them, and what is settled so
certification   what the labels of a random sample prove
certifying      from a labelled sample to a certificate, or to what is missing for one
terms           what is fixed before labels are looked at
used            which labels a certificate has used up
flips           how many verdicts of a golden set each attack flips
"""
