"""The ledger: workers write one row for each job while they are killed, stopped and cut off; then rows are counted."""
