"""What a policy and a model are worth, measured on posts whose label is known. Neither role imports this room.

golden          golden sets: posts with known labels, from a file
posts           a post as people write it down, with files for pictures
binomial        exact intervals of a rate
attacks         what an author writes around a post to turn its verdict
drawing         words drawn into a picture
judging         judges many posts against policies
kept            the model's answers, kept between runs
figures         precision, recall, AUC, calibration, per clause and per slice
tested          a test of policies against their golden sets
plots           plots of figures
tested_page     the page of a test
traffic         the verdicts of a period, and their posts, from the topics
newest          which verdict of a period is the newest of its post
postfile        posts to draw from, in a file
groups          which posts are of equal content
populations     the groups that a sample is drawn from, with their scores
sampling        grids of thresholds, and the order in which a seed draws
drawn           from a population to a sample
samples         posts that were drawn to be labelled, and their file
labels          what people say of them, and what is settled so
flips           how many verdicts of a golden set each attack flips
rows            verdicts as rows of a table, without content
archive         these rows as Parquet by day: files that are whole or not there
archiving       from the verdicts topic to the archive
deciding        policies.decision in columns
redeciding      what other thresholds would have done to past traffic
redecided       the result of that
flipped         the findings that other thresholds turn
"""
