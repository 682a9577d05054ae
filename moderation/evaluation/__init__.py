"""What a policy and a model are worth, measured on posts whose label is known. Neither role imports this room.

golden          golden sets: posts with known labels, from a file
binomial        exact intervals of a rate
attacks         what an author writes around a post to turn its verdict
drawing         words drawn into a picture
flips           how many verdicts of a golden set each attack flips
rows            verdicts as rows of a table, without content
archive         these rows as Parquet by day: files that are whole or not there
archiving       from the verdicts topic to the archive
deciding        policies.decision in columns
redeciding      what other thresholds would have done to past traffic
redecided       the result of that
flipped         the findings that other thresholds turn
"""
