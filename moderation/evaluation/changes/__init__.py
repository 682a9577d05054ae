"""What a change of policies, thresholds or the model does to posts, and how surely.

wording             what two versions of a policy set say differently
strata              which posts of a population are judged again, and what that says of all
comparing           judges posts by two versions; known scores ask no model
changes             what a change does: flips, loads, and how surely
promotion           whether the gate lets a change pass
past                posts of a period, drawn by strata of their old scores
redecided_change    a change of thresholds on past verdicts, as any other change
flip_labels         labels of the posts that one version alone flags
deciding            policies.decision in columns
redeciding          what other thresholds would have done to past traffic
redecided           the result of that
flipped             the findings that other thresholds turn
"""
