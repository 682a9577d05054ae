"""What topics hold of a period: verdicts, their posts, and verdicts as an archive of tables.

traffic      the verdicts of a period, and their posts, from the topics
newest       which verdict of a period is the newest of its post
rows         verdicts as rows of a table, without content
archive      these rows as Parquet by day: files that are whole or not there
archiving    from the verdicts topic to the archive
history      which version of a policy was in use when
"""
