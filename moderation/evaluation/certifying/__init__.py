"""What the labels of a random sample prove of a threshold.

certification    what the labels of a random sample prove
certifying       from a labelled sample to a certificate, or to what is missing for one
terms            what is fixed before labels are looked at
used             which labels a certificate has used up
"""
