"""What came out for whom: patients, groups of patients, and how sure the models are of what they say."""
