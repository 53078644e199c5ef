"""A study from Python, cell by cell: does personalisation still help when hospitals are few and small?

Runs as a script, or cell by cell in an editor that knows `# %%`. Simulated records, about a minute on two cores:

    python examples/study.py [FOLDER]
"""

# %% The question as plain data: what is compared, what is tuned, what it is measured by.
import os
import sys
from pathlib import Path

from pulseledger import Study

TINY = os.environ.get("PULSELEDGER_EXAMPLE") == "tiny"  # a check that it runs, in seconds
ARGUMENTS = [word for word in sys.argv[1:] if not word.startswith("-")]  # a notebook's own are flags

question = {
    "name": "example",
    "data": {
        "source": "simulated",
        "window": [90, 162],
        "simulated": {"patients": 6 if TINY else 12, "minutes": 1.5 if TINY else 6},
    },
    "federation": {"rounds": 2 if TINY else 10, "decay": 0.9},
    "personalisation": {"method": "finetune", "epochs": 1},
    "conditions": {"cohort.hospitals": [2] if TINY else [3, 6]},
    "baselines": [{"federation.algorithm": "local"}],
    "search": {"federation.algorithm": {"choice": ["fedavg", "perfedavg"]}},
    "sampler": "grid",
    "repeats": 1 if TINY else 2,
    "objectives": {"validation/personal/macro_f1": "maximize"},
    "tracking": {"backend": "none" if TINY else "mlflow"},
}
study = Study(question, out=ARGUMENTS[0] if ARGUMENTS else "runs/example")

# %% Run it. Interrupt it whenever you like: the same line goes on where it was.
study.run()

# %% Every trial as a row of a table, best first in each condition.
results = study.results()
columns = ["condition", "method", "final/personal/macro_f1", "final/personal/macro_f1/sd", "final/global/macro_f1"]
print(results[[*columns, "cohort/local_majority_macro_f1"]].to_string(index=False, float_format="{:.3f}".format))

# %% The best of each condition, by validation beats; its scores on the test beats.
for condition in results["condition"].unique():
    best = study.best(condition)
    print(f"best of {condition}: {best['method']}, macro-F1 {best['final/personal/macro_f1']:.3f} on the test beats")

# %% What each hospital gains from adapting the common model. Local-only has no common model.
hospitals = study.hospitals().merge(results[["trial", "algorithm", "method"]], on="trial")
hospitals = hospitals[hospitals["algorithm"] != "local"]
hospitals["gain"] = hospitals["personal_macro_f1"] - hospitals["global_macro_f1"]
print(hospitals.groupby(["condition", "method"])["gain"].describe()[["min", "50%", "max"]].to_string())

# %% Learning curves of the common model, with the range over the repeats.
from matplotlib.figure import Figure  # noqa: E402

rounds = study.rounds().merge(results[["trial", "algorithm", "method"]], on="trial")
figure = Figure(figsize=(9, 3.5), layout="constrained")
panels = figure.subplots(1, results["condition"].nunique(), sharey=True, squeeze=False)[0]
for axes, (condition, part) in zip(panels, rounds[rounds["algorithm"] != "local"].groupby("condition"), strict=True):
    for method, curve in part.groupby("method"):
        band = curve.groupby("round")["macro_f1"].agg(["mean", "min", "max"])
        axes.plot(band.index, band["mean"], label=method)
        axes.fill_between(band.index, band["min"], band["max"], alpha=0.2)
    axes.set(title=condition, xlabel="round", ylim=(0, 1))
panels[0].set_ylabel("macro-F1 on validation beats")
panels[0].legend()
path = Path(study.folder) / "curves.png"
figure.savefig(path, dpi=120)
print(f"drawn: {path}")
