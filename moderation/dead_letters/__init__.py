"""Dead letters, and how they are put on the posts topic again without undoing what came later.

    letters     what a dead letter is of, and which ones are meant
    standing    what is newest under the ids of some posts: on the verdicts topic, and on the posts topic behind it
    decisions   which dead letters may be replayed, and why not
    replay      gets the records of those that may
    sending     puts them on the posts topic

A replay is right if the verdict that stands is the one on the dead letter's own record. Then nothing came later: an
edit has another verdict, and an erasure has removed the verdict. The verdicts topic keeps the newest verdict of each
post, so this can be known after the posts topic has lost both. What is not judged yet is read from the posts topic.
"""
