"""The judge of fault runs: reads what clients wrote and what PostgreSQL committed; imports nothing of the product."""
