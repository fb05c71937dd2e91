"""Load generators: programs that put load on the system and say how much CPU they used themselves."""
