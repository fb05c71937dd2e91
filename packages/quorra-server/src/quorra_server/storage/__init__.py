"""All SQL, and the only code that knows the driver: one short function for each statement."""
