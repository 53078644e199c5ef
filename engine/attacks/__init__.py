"""Hostile and lazy hospitals, in simulation only. Nothing is imported here.

Who attacks, and how, stands in the run's configuration, in its result and so on its ledger: nobody can mistake such a run
for a real one. What an attacker sees:

    left-out   nothing: the hostile hospitals take no part, which is what the others are held against
    alone      label-flip, backdoor, sign-flip, noise, free-rider: its own data and the models that it is given
    together   ipm, alie, mimic, copycat, adaptive: also the honest updates of the round, before its own is due, and what
               the other attackers do; `adaptive` knows the rule of aggregation, too

No score of such a run is over the hostile hospitals (`Result.hostile`); their predictions lie with the others'.
None sees the honest hospitals' data, breaks a signature, or rules the coordinator. An attacker signs what it sends.
"""
