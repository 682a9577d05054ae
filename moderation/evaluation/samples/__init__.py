"""Samples of past traffic: which posts are of equal content, which are drawn, and how people label them.

groups         which posts are of equal content
populations    the groups that a sample is drawn from, with their scores
sampling       grids of thresholds, and the order in which a seed draws
drawn          from a population to a sample
samples        posts that were drawn to be labelled, and their file
labels         what people say of them, and what is settled so
"""
