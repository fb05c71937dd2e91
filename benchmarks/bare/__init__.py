"""A queue that does only what no durable queue could leave out: the floor under Quorra's figures.

It is built of the same libraries. A job is a row, put in and flushed; it is taken out in order, travels in a message,
and its end is one more row. Nothing is checked or counted, and a job that was taken out is lost with its worker.
"""
