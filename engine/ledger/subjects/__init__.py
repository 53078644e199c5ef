"""What a ledger holds, one subject a file: its records, its rows, its calls, and what it takes up when a folder is opened."""
