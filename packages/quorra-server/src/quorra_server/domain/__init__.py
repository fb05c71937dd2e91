"""Values and rules of a job queue, with no input or output: the vocabulary of all other rooms."""
