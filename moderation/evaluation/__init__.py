"""What a policy and a model are worth, measured on posts whose label is known. Neither role imports this room.

posts/          posts as people write them down, with labels: golden sets, tables, and from one to the other
testing/        what golden sets show of a policy and a model, and how many of their verdicts attacks flip
traffic/        what topics hold of a period: verdicts, their posts, and verdicts as an archive of tables
samples/        samples of past traffic: which posts are of equal content, which are drawn, and how people label them
certifying/     what the labels of a random sample prove of a threshold
changes/        what a change of policies, thresholds or the model does to posts, and how surely

progress_file   verdicts of a long command as they come
binomial        exact intervals of a rate
judging         judges many posts against policies
kept            the model's answers, kept between runs
report          pages of HTML, and plots in them
files           files that a command writes, whole
"""
