"""Studies: many federations, compared over conditions and tuned within them."""
