"""What scripts/benchmark.py is made of.

lengths   batches: random, bucketed, from real text, and as a length-grouped sampler makes them
work      useful floating-point operations, those that enter the products, and the floor of a recurrence
sides     contestants with one set of weights: seqlab, torch's own modules, Hugging Face models
measure   taking turns, agreement, peak memory in a fresh process, a row of the table
training  whole training runs, against the Hugging Face Trainer
rows      the rows of the table, and what each is to reach
report    the table, Markdown, JSON, the plot
"""
