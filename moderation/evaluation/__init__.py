"""What a policy and a model are worth, measured on posts whose label is known. Neither role imports this room.

golden          golden sets: posts with known labels, from a file
posts           a post as people write it down, with files for pictures
tables          files of posts: CSV and JSON lines
importing       labelled tables become golden sets, and back
expected        what a label says of a verdict under a whole policy set
classified      many posts with their verdicts, as CSV, JSON or a page
progress_file   verdicts of a long command as they come
binomial        exact intervals of a rate
attacks         what an author writes around a post to turn its verdict
drawing         words drawn into a picture
flips           how many verdicts of a golden set each attack flips
"""
