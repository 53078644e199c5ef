"""Where hospitals live: this process, threads, Ray; the same bits. Nothing is imported here."""
