"""Which miner serves which hospital: offers, reports, preferences, matchings. Pure functions of the configuration and of hospitals' sizes."""
