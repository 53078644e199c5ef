"""Studies, audits and requests in a browser: it reads what the commands read, and asks a study's driver as `ask` does."""
