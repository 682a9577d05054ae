"""Posts as people write them down, with labels: golden sets, tables, and from one to the other.

golden       golden sets: posts with known labels, from a file
posts        a post as people write it down, with files for pictures
tables       files of posts: CSV and JSON lines
importing    labelled tables become golden sets, and back
"""
